// The k best slots of every query, among those whose stamps it sees.
//
// The reference is memnets/ops/topk_address.py. Threads share out queries; a query's result depends on no other.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "slot_search.h"

namespace memnets {
namespace {

using at::Tensor;
constexpr const char* OP = "topk_address";
constexpr int64_t MOST_QUERIES = 1024, FEWEST_QUERIES = 64;  // of one key head that are searched for together

void check_shape(const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, OP, ": ", name, " must be ", shape, ", not ", tensor.sizes());
}

template <class T>
void search(const Search<T>& given, bool plain, T* scores, int64_t* slots) {
#if defined(MEMNETS_BYTES)
  if constexpr (std::is_same_v<T, float>)
    if (!plain && given.word <= LONGEST_BYTE_WORD) return Searcher<T, ByteScreen>(given).run(scores, slots);
#endif
  Searcher<T, PlainScreen<T>>(given).run(scores, slots);
}

// Scores and slots [batch heads time k]. `plain`: screened in the keys' own precision, whatever the CPU has.
std::tuple<Tensor, Tensor> search_slots(const Tensor& given_query, const Tensor& given_keys,
                                        const Tensor& given_stamps, const Tensor& given_oldest,
                                        const Tensor& given_newest, const std::optional<Tensor>& given_decay,
                                        int64_t k, bool plain) {
  TORCH_CHECK(given_query.dim() == 4 && given_keys.dim() == 4, OP, ": query must be [batch heads time word], "
              "keys [batch key_heads slots word]");
  const Tensor query = given_query.contiguous(), keys = given_keys.contiguous(), stamps = given_stamps.contiguous();
  const Tensor oldest = given_oldest.contiguous(), newest = given_newest.contiguous();
  const Tensor decay = given_decay ? given_decay->contiguous() : at::zeros({query.size(1)}, query.options());
  const int64_t batch = query.size(0), heads = query.size(1), time = query.size(2), word = query.size(3);
  const int64_t key_heads = keys.size(1), slots = keys.size(2);
  check_shape("keys", keys, {batch, key_heads, slots, word});
  check_shape("stamps", stamps, {batch, slots});
  check_shape("oldest", oldest, {batch, time});
  check_shape("newest", newest, {batch, time});
  check_shape("decay", decay, {heads});
  TORCH_CHECK(key_heads >= 1 && heads % key_heads == 0, OP, ": heads must be a multiple of key heads");
  TORCH_CHECK(1 <= k && k <= slots && slots < (int64_t(1) << 31), OP, ": 1 <= k <= slots < 2^31");
  for (const Tensor& each : {keys, decay})
    TORCH_CHECK(each.scalar_type() == query.scalar_type(), OP, ": query, keys and decay must be of one dtype");
  for (const Tensor& each : {stamps, oldest, newest})
    TORCH_CHECK(each.scalar_type() == at::kLong, OP, ": stamps must be int64");
  const Tensor scores = at::empty({batch, heads, time, k}, query.options());
  const Tensor indices = at::empty({batch, heads, time, k}, stamps.options());
  const int64_t queries = heads / key_heads * time, groups = batch * key_heads;  // that share their keys
  if (!queries || !groups) return {scores, indices};
  const int64_t wanted = (4 * at::get_num_threads() + groups - 1) / groups;
  const int64_t together = at::get_num_threads() == 1
                               ? MOST_QUERIES
                               : std::clamp((queries + wanted - 1) / wanted, FEWEST_QUERIES, MOST_QUERIES);
  const int64_t parts = (queries + together - 1) / together;
  AT_DISPATCH_FLOATING_TYPES(query.scalar_type(), OP, [&] {
    at::parallel_for(0, groups * parts, 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) {
        const int64_t group = i / parts, row = group / key_heads, first = i % parts * together;
        const int64_t at = group * queries + first;
        const Search<scalar_t> given{query.const_data_ptr<scalar_t>() + at * word,
                                     keys.const_data_ptr<scalar_t>() + group * slots * word,
                                     stamps.const_data_ptr<int64_t>() + row * slots,
                                     oldest.const_data_ptr<int64_t>() + row * time,
                                     newest.const_data_ptr<int64_t>() + row * time,
                                     decay.const_data_ptr<scalar_t>() + group % key_heads * (heads / key_heads),
                                     first, std::min(together, queries - first), time, slots, word, k};
        search<scalar_t>(given, plain, scores.mutable_data_ptr<scalar_t>() + at * k,
                         indices.mutable_data_ptr<int64_t>() + at * k);
      }
    });
  });
  return {scores, indices};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "search_slots(Tensor query, Tensor keys, Tensor stamps, Tensor oldest, Tensor newest, Tensor? decay, "
      "int k, bool plain=False) "
      "-> (Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) { library.impl("search_slots", &memnets::search_slots); }
