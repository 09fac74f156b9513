// The cells of a Recurrent Entity Network, from a story's first sentence to its last in one call, forward and backward.
//
// Threads share out groups of stories, whose number depends on the batch alone: the groups' gradients are added in their
// order, so that the result is the same for any number of threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "denormals.h"
#include "entity_memory.h"

namespace memnets {
namespace {

using at::Tensor;
constexpr const char* OP = "entity_memory";
constexpr int64_t GROUP = 8, MOST_GROUPS = 16;  // stories at least, groups at most

void check_shape(const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, OP, ": ", name, " must be ", shape, ", not ", tensor.sizes());
}

// What forward and backward pass are given alike.
struct EntityCall {
  EntityCall(const Tensor& given_sentences, const Tensor& given_lengths, const Tensor& given_matches,
             const Tensor& given_about, const Tensor& given_about_keys, const Tensor& given_from_memory,
             const Tensor& given_slopes)
      : sentences(given_sentences.contiguous()), lengths(given_lengths.contiguous()), matches(given_matches.contiguous()),
        about(given_about.contiguous()), about_keys(given_about_keys.contiguous()),
        from_memory(given_from_memory.contiguous()), slopes(given_slopes.contiguous()) {
    TORCH_CHECK(sentences.dim() == 3, OP, ": sentences must be [batch sentences word], not ", sentences.sizes());
    TORCH_CHECK(about_keys.dim() == 2, OP, ": the keys' part must be [slots word], not ", about_keys.sizes());
    sizes = {sentences.size(0), sentences.size(1), about_keys.size(0), about_keys.size(1)};
    check();
    transposed = from_memory.t().contiguous();
    group = std::max(GROUP, (sizes.batch + MOST_GROUPS - 1) / MOST_GROUPS);
    groups = (sizes.batch + group - 1) / group;
  }

  void check() const {
    const int64_t batch = sizes.batch, word = sizes.word;
    check_shape("lengths", lengths, {batch});
    check_shape("sentences", sentences, {batch, sizes.sentences, word});
    check_shape("matches", matches, {batch, sizes.sentences, sizes.slots});
    check_shape("the sentences' part", about, {batch, sizes.sentences, word});
    check_shape("U", from_memory, {word, word});
    check_shape("slopes", slopes, {word});
    TORCH_CHECK(lengths.scalar_type() == at::kLong, OP, ": lengths must be int64");
    for (const Tensor& each : {matches, about, about_keys, from_memory, slopes})
      TORCH_CHECK(each.scalar_type() == sentences.scalar_type(), OP, ": tensors must be of one dtype");
    const int64_t* all = lengths.const_data_ptr<int64_t>();
    for (int64_t b = 0; b < batch; b++)
      TORCH_CHECK(0 <= all[b] && all[b] <= sizes.sentences, OP, ": lengths must be from 0 to ", sizes.sentences,
                  ", not ", all[b]);
  }

  void check_memory(const char* name, const Tensor& memory) const {
    check_shape(name, memory, {sizes.batch, sizes.slots, sizes.word});
    TORCH_CHECK(memory.scalar_type() == sentences.scalar_type(), OP, ": tensors must be of one dtype");
  }

  template <class T>
  EntityWeights<T> weights() const {
    return {from_memory.const_data_ptr<T>(), transposed.const_data_ptr<T>(), about_keys.const_data_ptr<T>(),
            slopes.const_data_ptr<T>()};
  }
  template <class T>
  EntityStory<T> story(int64_t b) const {
    const int64_t first = b * sizes.sentences;
    return {sentences.const_data_ptr<T>() + first * sizes.word, matches.const_data_ptr<T>() + first * sizes.slots,
            about.const_data_ptr<T>() + first * sizes.word, lengths.const_data_ptr<int64_t>()[b]};
  }

  // work(reader, first story, last and one more, number of the group) for all groups.
  template <class T, class Work>
  void for_groups(const Work& work) const {
    at::parallel_for(0, groups, 1, [&](int64_t from, int64_t to) {
      const FlushDenormals flush;
      EntityReader<T> reader(sizes);
      for (int64_t g = from; g < to; g++) work(reader, g * group, std::min((g + 1) * group, sizes.batch), g);
    });
  }

  Tensor sentences, lengths, matches, about, about_keys, from_memory, transposed, slopes;
  EntitySizes sizes;
  int64_t group, groups;
};

// A story's trace in tensors that hold all of them.
template <class T>
EntityTrace<T> trace_of(const EntityCall& call, const Tensor& states, const Tensor& units, const Tensor& gates,
                        int64_t b) {
  const EntitySizes& sizes = call.sizes;
  return {states.mutable_data_ptr<T>() + b * (sizes.sentences + 1) * sizes.cells(),
          units.mutable_data_ptr<T>() + b * sizes.sentences * sizes.cells(),
          gates.mutable_data_ptr<T>() + b * sizes.sentences * sizes.slots, true};
}

// Zeros behind a story's end.
template <class T>
void end_trace(const EntityTrace<T>& trace, const EntitySizes& sizes, int64_t length) {
  const int64_t left = sizes.sentences - length;
  std::fill_n(trace.memory_at(length + 1, sizes), left * sizes.cells(), T(0));
  std::fill_n(trace.units_at(length, sizes), left * sizes.cells(), T(0));
  std::fill_n(trace.gates_at(length, sizes), left * sizes.slots, T(0));
}

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The memory after the stories [batch slots word], and what is kept: the memory before every sentence and after the last
// [batch sentences+1 slots word], φ's arguments [batch sentences slots word] and gates [batch sentences slots].
Four forward(const Tensor& given_memory, const Tensor& sentences, const Tensor& lengths, const Tensor& matches,
             const Tensor& about, const Tensor& about_keys, const Tensor& from_memory, const Tensor& slopes, bool keep) {
  const EntityCall call(sentences, lengths, matches, about, about_keys, from_memory, slopes);
  call.check_memory("memory", given_memory);
  const EntitySizes& sizes = call.sizes;
  const Tensor memory = given_memory.contiguous();
  const auto options = memory.options();
  const int64_t kept = keep ? sizes.batch : 0;
  const Tensor result = at::empty({sizes.batch, sizes.slots, sizes.word}, options);
  const Tensor states = at::empty({kept, sizes.sentences + 1, sizes.slots, sizes.word}, options);
  const Tensor units = at::empty({kept, sizes.sentences, sizes.slots, sizes.word}, options);
  const Tensor gates = at::empty({kept, sizes.sentences, sizes.slots}, options);
  AT_DISPATCH_FLOATING_TYPES(memory.scalar_type(), OP, [&] {
    using T = scalar_t;
    call.for_groups<T>([&](const auto& reader, int64_t first, int64_t end, int64_t) {
      std::vector<T> own(keep ? 0 : sizes.cells() + sizes.slots);
      for (int64_t b = first; b < end; b++) {
        T* after = result.mutable_data_ptr<T>() + b * sizes.cells();
        const auto trace = keep ? trace_of<T>(call, states, units, gates, b)
                                : EntityTrace<T>{after, own.data(), own.data() + sizes.cells(), false};
        const auto story = call.story<T>(b);
        std::copy_n(memory.const_data_ptr<T>() + b * sizes.cells(), sizes.cells(), trace.memory);
        reader.forward(call.weights<T>(), story, trace);
        if (!keep) continue;
        std::copy_n(trace.memory_at(story.length, sizes), sizes.cells(), after);
        end_trace(trace, sizes, story.length);
      }
    });
  });
  return {result, states, units, gates};
}

// Sum the groups' gradients, in their order.
Tensor total(const Tensor& parts) {
  if (parts.size(0) == 1) return parts.squeeze(0);
  const Tensor sum = at::zeros(parts.sizes().slice(1), parts.options());
  for (const Tensor& part : parts.unbind()) sum.add_(part);
  return sum;
}

using Seven = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of memory, sentences, matches, the sentences' part, the keys' part, U and slopes.
Seven backward(const Tensor& d_result, const Tensor& sentences, const Tensor& lengths, const Tensor& matches,
               const Tensor& about, const Tensor& about_keys, const Tensor& from_memory, const Tensor& slopes,
               const Tensor& given_states, const Tensor& given_units, const Tensor& given_gates) {
  const EntityCall call(sentences, lengths, matches, about, about_keys, from_memory, slopes);
  call.check_memory("the gradient", d_result);
  const EntitySizes& sizes = call.sizes;
  check_shape("states", given_states, {sizes.batch, sizes.sentences + 1, sizes.slots, sizes.word});
  check_shape("units", given_units, {sizes.batch, sizes.sentences, sizes.slots, sizes.word});
  check_shape("gates", given_gates, {sizes.batch, sizes.sentences, sizes.slots});
  const Tensor states = given_states.contiguous(), units = given_units.contiguous(), gates = given_gates.contiguous();
  const auto options = call.sentences.options();
  const Tensor d_memory = d_result.clone(at::MemoryFormat::Contiguous);
  const Tensor d_sentences = at::zeros(call.sentences.sizes(), options);
  const Tensor d_matches = at::zeros(call.matches.sizes(), options), d_about = at::zeros(call.about.sizes(), options);
  const int64_t groups = std::max<int64_t>(call.groups, 1);
  const Tensor d_keys = at::zeros({groups, sizes.slots, sizes.word}, options);
  const Tensor d_from_memory = at::zeros({groups, sizes.word, sizes.word}, options);
  const Tensor d_slopes = at::zeros({groups, sizes.word}, options);
  AT_DISPATCH_FLOATING_TYPES(call.sentences.scalar_type(), OP, [&] {
    using T = scalar_t;
    call.for_groups<T>([&](auto& reader, int64_t first, int64_t end, int64_t g) {
      const EntitySums<T> sums{d_from_memory.mutable_data_ptr<T>() + g * sizes.word * sizes.word,
                               d_keys.mutable_data_ptr<T>() + g * sizes.cells(),
                               d_slopes.mutable_data_ptr<T>() + g * sizes.word};
      for (int64_t b = first; b < end; b++) {
        const int64_t at = b * sizes.sentences;
        reader.backward(call.weights<T>(), call.story<T>(b), trace_of<T>(call, states, units, gates, b),
                        {d_memory.mutable_data_ptr<T>() + b * sizes.cells(),
                         d_sentences.mutable_data_ptr<T>() + at * sizes.word,
                         d_matches.mutable_data_ptr<T>() + at * sizes.slots,
                         d_about.mutable_data_ptr<T>() + at * sizes.word},
                        sums);
      }
    });
  });
  return {d_memory, d_sentences, d_matches, d_about, total(d_keys), total(d_from_memory), total(d_slopes)};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "entity_memory_forward(Tensor memory, Tensor sentences, Tensor lengths, Tensor matches, Tensor about, "
      "Tensor about_keys, Tensor from_memory, Tensor slopes, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "entity_memory_backward(Tensor d_result, Tensor sentences, Tensor lengths, Tensor matches, Tensor about, "
      "Tensor about_keys, Tensor from_memory, Tensor slopes, Tensor states, Tensor units, Tensor gates) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("entity_memory_forward", &memnets::forward);
  library.impl("entity_memory_backward", &memnets::backward);
}
