// A Memory Network from a story and a question to its last query in one call, forward and backward.
//
// The reference is memnets/ops/memory_hops.py; names and equations are the same. Every tensor has an axis of replicas
// first, networks that have nothing in common. Threads share out groups of examples, whose number depends on the batch
// alone: the groups' gradients are added in their order, so that the result is the same for any number of threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <atomic>
#include <optional>
#include <string_view>
#include <tuple>

#include "denormals.h"
#include "hop_reader.h"

namespace memnets {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
constexpr const char* OP = "memory_hops";
constexpr int64_t GROUP = 16, MOST_GROUPS = 16;  // examples at least, groups at most

void check_shape(const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, OP, ": ", name, " must be ", shape, ", not ", tensor.sizes());
}

Position position_of(std::string_view name) {
  if (name == "none") return Position::none;
  TORCH_CHECK(name == "paper" || name == "centred", OP, ": position must be none, paper or centred, not ", name);
  return name == "paper" ? Position::paper : Position::centred;
}

Tensor contiguous(const MaybeTensor& tensor) { return tensor ? tensor->contiguous() : Tensor(); }

// What forward and backward pass are given alike.
struct HopsCall {
  HopsCall(const Tensor& given_story, const MaybeTensor& given_ages, const Tensor& given_question,
           const Tensor& given_words, const MaybeTensor& given_age_vectors, const MaybeTensor& given_update,
           const MaybeTensor& given_linear, const HopsScheme& scheme)
      : story(given_story.contiguous()), ages(contiguous(given_ages)), question(given_question.contiguous()),
        words(given_words.contiguous()), age_vectors(contiguous(given_age_vectors)), update(contiguous(given_update)),
        linear(contiguous(given_linear)), scheme(scheme) {
    TORCH_CHECK(story.dim() == 4 && words.dim() == 4, OP, ": story must be [replicas batch sentences words], "
                "words [replicas tables ids embedding]");
    TORCH_CHECK(scheme.hops >= 1 && words.size(3) >= 1, OP, ": there must be a hop and an embedding");
    replicas = words.size(0);
    sizes = {story.size(1), story.size(2), story.size(3), words.size(2),
             age_vectors.defined() ? age_vectors.size(2) : 0, words.size(3)};
    check();
    group = std::max(GROUP, (sizes.batch + MOST_GROUPS - 1) / MOST_GROUPS);
    groups = (sizes.batch + group - 1) / group;
  }

  void check() const {
    const int64_t batch = sizes.batch, embedding = sizes.embedding;
    check_shape("words", words, {replicas, scheme.tables(), sizes.ids, embedding});
    check_shape("story", story, {replicas, batch, sizes.sentences, sizes.words});
    check_shape("question", question, {replicas, batch, sizes.words});
    TORCH_CHECK(ages.defined() == age_vectors.defined(), OP, ": ages go with vectors of ages");
    TORCH_CHECK(!(scheme.adjacent && update.defined()), OP, ": there is no update with adjacent tables");
    if (ages.defined()) check_shape("ages", ages, {replicas, batch, sizes.sentences});
    if (ages.defined())
      check_shape("age vectors", age_vectors, {replicas, scheme.story_tables(), sizes.ages, embedding});
    if (update.defined()) check_shape("update", update, {replicas, embedding, embedding});
    if (linear.defined()) check_shape("linear", linear, {replicas});
    for (const Tensor& each : {story, ages, question})
      TORCH_CHECK(!each.defined() || each.scalar_type() == at::kLong, OP, ": ids and ages must be int64");
    for (const Tensor& each : {age_vectors, update})
      TORCH_CHECK(!each.defined() || each.scalar_type() == words.scalar_type(), OP, ": weights must be of one dtype");
    TORCH_CHECK(!linear.defined() || linear.scalar_type() == at::kBool, OP, ": linear must be true or false");
  }

  // The rows of every replica's tables.
  template <class T>
  std::vector<T> rows(const RowLayout<T>& layout) const {
    std::vector<T> rows(replicas * layout.size(), T(0));
    at::parallel_for(0, replicas, 1, [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; r++) {
        T* own = rows.data() + r * layout.size();
        layout.pack(words.const_data_ptr<T>() + r * words.stride(0), sizes.ids, layout.tables, own + layout.word(1));
        if (ages.defined())
          layout.pack(age_vectors.const_data_ptr<T>() + r * age_vectors.stride(0), sizes.ages, scheme.story_tables(),
                      own + layout.word(sizes.ids + 1));
      }
    });
    return rows;
  }

  template <class T>
  HopsReplica<T> replica(const std::vector<T>& rows, const RowLayout<T>& layout, int64_t r) const {
    return {rows.data() + r * layout.size(),
            update.defined() ? update.const_data_ptr<T>() + r * update.stride(0) : nullptr,
            linear.defined() && linear.const_data_ptr<bool>()[r]};
  }

  // Example b of replica r; its trace at place `kept` of queries and weights.
  template <class T>
  HopsExample<T> example(int64_t r, int64_t b, int64_t kept, T* queries, T* weights) const {
    const int64_t at = r * sizes.batch + b;
    return {story.const_data_ptr<int64_t>() + at * sizes.sentences * sizes.words,
            ages.defined() ? ages.const_data_ptr<int64_t>() + at * sizes.sentences : nullptr,
            question.const_data_ptr<int64_t>() + at * sizes.words,
            queries + kept * (scheme.hops + 1) * sizes.embedding, weights + kept * scheme.hops * sizes.sentences};
  }

  // work(reader, replica, first example, last and one more, number of the group) for all groups.
  template <class T, class Work>
  void for_groups(const Encoding<T>& encoding, const Work& work) const {
    at::parallel_for(0, replicas * groups, 1, [&](int64_t from, int64_t to) {
      const FlushDenormals flush;
      HopReader<T> reader(sizes, scheme, encoding);
      for (int64_t i = from; i < to; i++) {
        const int64_t first = i % groups * group;
        work(reader, i / groups, first, std::min(first + group, sizes.batch), i);
      }
    });
  }

  Tensor story, ages, question, words, age_vectors, update, linear;
  HopsScheme scheme;
  HopsSizes sizes;
  int64_t replicas, group, groups;
};

using Three = std::tuple<Tensor, Tensor, Tensor>;

// The last query [replicas batch embedding], and what is kept: queries [replicas batch hops+1 embedding] and weights
// [replicas batch hops sentences] of the slots told, 0 behind them.
Three forward(const Tensor& story, const MaybeTensor& ages, const Tensor& question, const Tensor& words,
              const MaybeTensor& age_vectors, const MaybeTensor& update, const MaybeTensor& linear, int64_t hops,
              bool adjacent, std::string_view position, bool relu, double scale, bool attend_empty, int64_t most_words,
              bool keep) {
  const HopsCall call(story, ages, question, words, age_vectors, update, linear,
                      {hops, adjacent, position_of(position), relu, attend_empty, scale, most_words});
  const auto options = call.words.options();
  const int64_t replicas = call.replicas, batch = call.sizes.batch, kept = keep ? batch : 0;
  const int64_t size = call.sizes.embedding;
  const Tensor result = at::empty({replicas, batch, size}, options);
  const Tensor queries = at::empty({replicas, kept, hops + 1, size}, options);
  const Tensor weights = at::empty({replicas, kept, hops, call.sizes.sentences}, options);
  std::atomic<bool> known = true;
  AT_DISPATCH_FLOATING_TYPES(call.words.scalar_type(), OP, [&] {
    const Encoding<scalar_t> encoding(call.sizes, call.scheme);
    const auto rows = call.rows(encoding.layout);
    call.for_groups(encoding, [&](auto& reader, int64_t r, int64_t first, int64_t end, int64_t) {
      std::vector<scalar_t> own((keep ? 0 : 1) * ((hops + 1) * size + hops * call.sizes.sentences));
      for (int64_t b = first; b < end; b++) {
        const auto example = keep ? call.example(r, b, r * batch + b, queries.mutable_data_ptr<scalar_t>(),
                                                 weights.mutable_data_ptr<scalar_t>())
                                  : call.example(r, b, 0, own.data(), own.data() + (hops + 1) * size);
        if (!reader.forward(call.replica(rows, encoding.layout, r), example)) known = false;
        std::copy_n(example.queries + hops * size, size, result.mutable_data_ptr<scalar_t>() + (r * batch + b) * size);
      }
    });
  });
  TORCH_CHECK_INDEX(known, OP, ": words must be ids from 0 to ", call.sizes.ids, ", ages no less than 0");
  return {result, queries, weights};
}

// Sum the groups' gradients of each replica into that of the first.
template <class T>
void sum_groups(const HopsCall& call, std::vector<T>& parts, int64_t size) {
  at::parallel_for(0, call.replicas, 1, [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++)
      for (int64_t g = 1; g < call.groups; g++)
        add_scaled(parts.data() + r * call.groups * size, parts.data() + (r * call.groups + g) * size, T(1), size);
  });
}

// Gradients of words, of the vectors of ages and of H; with no element for those that aren't wanted.
Three backward(const Tensor& d_result, const Tensor& story, const MaybeTensor& ages, const Tensor& question,
               const Tensor& words, const MaybeTensor& age_vectors, const MaybeTensor& update,
               const MaybeTensor& linear, const Tensor& given_queries, const Tensor& given_weights, int64_t hops,
               bool adjacent, std::string_view position, bool relu, double scale, bool attend_empty, int64_t most_words,
               bool wants_words, bool wants_ages, bool wants_update) {
  const HopsCall call(story, ages, question, words, age_vectors, update, linear,
                      {hops, adjacent, position_of(position), relu, attend_empty, scale, most_words});
  const int64_t replicas = call.replicas, batch = call.sizes.batch, size = call.sizes.embedding, groups = call.groups;
  check_shape("the gradient", d_result, {replicas, batch, size});
  check_shape("queries", given_queries, {replicas, batch, hops + 1, size});
  check_shape("weights", given_weights, {replicas, batch, hops, call.sizes.sentences});
  TORCH_CHECK((!wants_ages || age_vectors) && (!wants_update || update), OP, ": what isn't there has no gradient");
  const auto options = call.words.options();
  const auto room = [&](const Tensor& of, bool wanted) {
    return wanted ? at::zeros(of.sizes(), options) : at::empty({0}, options);
  };
  const Tensor d_words = room(call.words, wants_words), d_ages = room(call.age_vectors, wants_ages);
  const Tensor d_update = room(call.update, wants_update);
  const Tensor d_results = d_result.contiguous(), queries = given_queries.contiguous();
  const Tensor weights = given_weights.contiguous();
  AT_DISPATCH_FLOATING_TYPES(call.words.scalar_type(), OP, [&] {
    using T = scalar_t;
    const Encoding<T> encoding(call.sizes, call.scheme);
    const auto& layout = encoding.layout;
    const auto rows = call.rows(layout);
    const int64_t row_size = layout.size(), update_size = size * size;
    std::vector<T> d_rows((wants_words || wants_ages) * replicas * groups * row_size, T(0));
    std::vector<T> d_updates(wants_update * replicas * groups * update_size, T(0));
    call.for_groups(encoding, [&](auto& reader, int64_t r, int64_t first, int64_t end, int64_t g) {
      const HopsGradients<T> into{d_rows.empty() ? nullptr : d_rows.data() + g * row_size,
                                  d_updates.empty() ? nullptr : d_updates.data() + g * update_size};
      for (int64_t b = first; b < end; b++)
        reader.backward(call.replica(rows, layout, r),
                        call.example(r, b, r * batch + b, queries.mutable_data_ptr<T>(), weights.mutable_data_ptr<T>()),
                        d_results.const_data_ptr<T>() + (r * batch + b) * size, into);
    });
    if (!d_rows.empty()) sum_groups(call, d_rows, row_size);
    if (!d_updates.empty()) sum_groups(call, d_updates, update_size);
    for (int64_t r = 0; groups && r < replicas; r++) {
      const T* own = d_rows.data() + r * groups * row_size;
      if (wants_words)
        layout.unpack(own + layout.word(1), call.sizes.ids, layout.tables,
                      d_words.mutable_data_ptr<T>() + r * call.words.stride(0));
      if (wants_ages)
        layout.unpack(own + layout.word(call.sizes.ids + 1), call.sizes.ages, call.scheme.story_tables(),
                      d_ages.mutable_data_ptr<T>() + r * call.age_vectors.stride(0));
      if (wants_update)
        std::copy_n(d_updates.data() + r * groups * update_size, update_size,
                    d_update.mutable_data_ptr<T>() + r * update_size);
    }
  });
  return {d_words, d_ages, d_update};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "memory_hops_forward(Tensor story, Tensor? ages, Tensor question, Tensor words, Tensor? age_vectors, "
      "Tensor? update, Tensor? linear, int hops, bool adjacent, str position, bool relu, float scale, "
      "bool attend_empty, int most_words, bool keep) -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "memory_hops_backward(Tensor d_result, Tensor story, Tensor? ages, Tensor question, Tensor words, "
      "Tensor? age_vectors, Tensor? update, Tensor? linear, Tensor queries, Tensor weights, int hops, bool adjacent, "
      "str position, bool relu, float scale, bool attend_empty, int most_words, bool wants_words, bool wants_ages, "
      "bool wants_update) -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("memory_hops_forward", &memnets::forward);
  library.impl("memory_hops_backward", &memnets::backward);
}
