// A memory of side² slots: the search by half keys, and the weighted sum of what was found; forward and backward.
//
// The references are in memnets/ops/product_key.py; names and equations are the same. Threads share out queries, sums,
// halves of heads and slots, each of which is computed in one order: the bits don't depend on the number of threads.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "gather_rows.h"
#include "half_keys.h"
#include "matrix.h"

namespace memnets {
namespace {

using at::Tensor;
using Two = std::tuple<Tensor, Tensor>;
constexpr int64_t GROUP = 32;  // queries whose scores stay in the cache

void check_shape(const char* op, const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, op, ": ", name, " must be ", shape, ", not ", tensor.sizes());
}

void check_indices(const char* op, const Tensor& indices, int64_t slots) {
  TORCH_CHECK(indices.scalar_type() == at::kLong, op, ": indices must be int64");
  const int64_t* slot = indices.const_data_ptr<int64_t>();
  uint64_t largest = 0;  // of negative numbers, too
  for (int64_t i = 0; i < indices.numel(); i++) largest = std::max(largest, uint64_t(slot[i]));
  TORCH_CHECK_INDEX(!indices.numel() || largest < uint64_t(slots), op, ": indices must be slots from 0 to ", slots - 1);
}

struct AddressSizes {
  AddressSizes(const Tensor& query, const Tensor& half_keys, int64_t k) {
    TORCH_CHECK(query.dim() == 3 && half_keys.dim() == 4, OP, ": query must be [rows heads word], half keys "
                "[heads 2 side half]");
    rows = query.size(0), heads = query.size(1), side = half_keys.size(2), half = half_keys.size(3), word = 2 * half;
    check_shape(OP, "query", query, {rows, heads, word});
    check_shape(OP, "half keys", half_keys, {heads, 2, side, half});
    TORCH_CHECK(query.scalar_type() == half_keys.scalar_type(), OP, ": query and half keys must be of one dtype");
    TORCH_CHECK(1 <= k && k <= side && side <= 1 << 16, OP, ": k must be from 1 to the ", side, " half keys a side, of "
                "which there are at most 65536, not ", k);
  }
  static constexpr const char* OP = "product_key_address";
  int64_t rows, heads, side, half, word;
};

template <class T>
void search(const AddressSizes& sizes, const T* query, const T* half_keys, int64_t k, T* scores, int64_t* slots) {
  const int64_t groups = (sizes.rows + GROUP - 1) / GROUP, side = sizes.side, half = sizes.half;
  std::vector<T> turned(sizes.heads * 2 * half * side);
  for (int64_t h = 0; h < 2 * sizes.heads; h++)
    transpose<T>({half_keys + h * side * half, half}, {turned.data() + h * side * half, side}, side, half);
  const std::vector<T> nothing(side, T(0));
  at::parallel_for(0, sizes.heads * groups, 1, [&](int64_t from, int64_t to) {
    HalfKeySearch<T> search(side, k);
    std::vector<T> found(2 * GROUP * side);
    for (int64_t i = from; i < to; i++) {
      const int64_t head = i / groups, first = i % groups * GROUP, count = std::min(GROUP, sizes.rows - first);
      const T* queries = query + (first * sizes.heads + head) * sizes.word;
      for (int64_t kind = 0; kind < 2; kind++)
        multiply<T>(Rows<const T>{nothing.data(), 0}, Rows<const T>{queries + kind * half, sizes.heads * sizes.word},
                    {turned.data() + (2 * head + kind) * half * side, side}, {found.data() + kind * GROUP * side, side},
                    count, half, side);
      for (int64_t r = 0; r < count; r++) {
        const int64_t at = ((first + r) * sizes.heads + head) * k;
        search(found.data() + r * side, found.data() + (GROUP + r) * side, scores + at, slots + at);
      }
    }
  });
}

// Scores and slots [rows heads k].
Two address(const Tensor& given_query, const Tensor& given_half_keys, int64_t k) {
  const Tensor query = given_query.contiguous(), half_keys = given_half_keys.contiguous();
  const AddressSizes sizes(query, half_keys, k);
  const Tensor scores = at::empty({sizes.rows, sizes.heads, k}, query.options());
  const Tensor slots = at::empty(scores.sizes(), query.options().dtype(at::kLong));
  AT_DISPATCH_FLOATING_TYPES(query.scalar_type(), sizes.OP, [&] {
    search<scalar_t>(sizes, query.const_data_ptr<scalar_t>(), half_keys.const_data_ptr<scalar_t>(), k,
                     scores.mutable_data_ptr<scalar_t>(), slots.mutable_data_ptr<int64_t>());
  });
  return {scores, slots};
}

// Gradients of query and half keys.
Two address_backward(const Tensor& given_d_scores, const Tensor& given_query, const Tensor& given_half_keys,
                     const Tensor& given_slots) {
  const Tensor d_scores = given_d_scores.contiguous(), query = given_query.contiguous();
  const Tensor half_keys = given_half_keys.contiguous(), slots = given_slots.contiguous();
  const int64_t k = slots.size(-1);
  const AddressSizes sizes(query, half_keys, k);
  const int64_t heads = sizes.heads, side = sizes.side, half = sizes.half;
  check_shape(sizes.OP, "slots", slots, {sizes.rows, heads, k});
  check_shape(sizes.OP, "the gradient", d_scores, slots.sizes());
  check_indices(sizes.OP, slots, side * side);
  const Tensor d_query = at::zeros(query.sizes(), query.options());
  const Tensor d_half_keys = at::zeros(half_keys.sizes(), query.options());
  std::vector<int32_t> places(2 * slots.numel());  // of both kinds
  const int64_t* slot = slots.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < slots.numel(); i++)
    places[2 * i] = int32_t(slot[i] / side), places[2 * i + 1] = int32_t(slot[i] % side);
  AT_DISPATCH_FLOATING_TYPES(query.scalar_type(), sizes.OP, [&] {
    using T = scalar_t;
    const T *d = d_scores.const_data_ptr<T>(), *queries = query.const_data_ptr<T>();
    const T* keys = half_keys.const_data_ptr<T>();
    T *d_queries = d_query.mutable_data_ptr<T>(), *d_keys = d_half_keys.mutable_data_ptr<T>();
    at::parallel_for(0, sizes.rows * heads, GROUP, [&](int64_t from, int64_t to) {
      for (int64_t i = from * k; i < to * k; i++)
        for (int64_t kind = 0; kind < 2; kind++)
          add_scaled(d_queries + (i / k * 2 + kind) * half,
                     keys + ((i / k % heads * 2 + kind) * side + places[2 * i + kind]) * half, d[i], half);
    });
    at::parallel_for(0, 2 * heads, 1, [&](int64_t from, int64_t to) {
      for (int64_t h = from; h < to; h++)
        for (int64_t r = h / 2; r < sizes.rows * heads; r += heads)
          for (int64_t i = r * k; i < (r + 1) * k; i++)
            add_scaled(d_keys + (h * side + places[2 * i + h % 2]) * half, queries + (2 * r + h % 2) * half, d[i], half);
    });
  });
  return {d_query, d_half_keys};
}

// What forward and backward pass of the gather are given alike.
struct GatherCall {
  GatherCall(const Tensor& given_values, const Tensor& given_weights, const Tensor& given_indices)
      : values(given_values.contiguous()), weights(given_weights.contiguous()), indices(given_indices.contiguous()) {
    TORCH_CHECK(values.dim() == 2 && indices.dim() == 3, OP, ": values must be [slots word], indices [rows heads k]");
    slots = values.size(0), word = values.size(1), sums = indices.size(0) * indices.size(1);
    check_shape(OP, "weights", weights, indices.sizes());
    check_indices(OP, indices, slots);
    TORCH_CHECK(values.scalar_type() == weights.scalar_type(), OP, ": values and weights must be of one dtype");
    TORCH_CHECK(indices.numel() < int64_t(1) << 32, OP, ": there must be less than 2^32 choices");
  }
  template <class T>
  Choices<T> choices() const {
    return {values.const_data_ptr<T>(), weights.const_data_ptr<T>(), indices.const_data_ptr<int64_t>(),
            indices.numel(), indices.size(2), word};
  }
  static constexpr const char* OP = "weighted_gather";
  Tensor values, weights, indices;
  int64_t slots, word, sums;
};

// [rows heads word]
Tensor gather(const Tensor& values, const Tensor& weights, const Tensor& indices) {
  const GatherCall call(values, weights, indices);
  const Tensor result = at::empty({indices.size(0), indices.size(1), call.word}, call.values.options());
  AT_DISPATCH_FLOATING_TYPES(call.values.scalar_type(), call.OP, [&] {
    at::parallel_for(0, call.sums, 8, [&](int64_t from, int64_t to) {
      sum_chosen(call.choices<scalar_t>(), from, to, result.mutable_data_ptr<scalar_t>());
    });
  });
  return result;
}

// Gradients of values and weights; with no element for those that aren't wanted.
Two gather_backward(const Tensor& given_d_result, const Tensor& values, const Tensor& weights, const Tensor& indices,
                    bool wants_values, bool wants_weights) {
  const GatherCall call(values, weights, indices);
  const Tensor d_result = given_d_result.contiguous();
  check_shape(call.OP, "the gradient", d_result, {indices.size(0), indices.size(1), call.word});
  const auto options = call.values.options();
  const Tensor d_values = wants_values ? at::empty(call.values.sizes(), options) : at::empty({0}, options);
  const Tensor d_weights = wants_weights ? at::empty(call.indices.sizes(), options) : at::empty({0}, options);
  take_huge_pages(d_values.mutable_data_ptr(), d_values.nbytes());
  const BySlot order(call.indices.const_data_ptr<int64_t>(), call.indices.numel(), call.slots);
  AT_DISPATCH_FLOATING_TYPES(call.values.scalar_type(), call.OP, [&] {
    using T = scalar_t;
    const bool past_caches = int64_t(d_values.nbytes()) >= LARGE && call.word % WIDTH<T> == 0;
    const auto run = [&](const auto& gradient) {
      at::parallel_for(0, call.slots, 64, [&](int64_t from, int64_t to) { gradient(from, to, past_caches); });
    };
    const auto choices = call.choices<T>();
    const T* d_sums = d_result.const_data_ptr<T>();
    T *into_values = d_values.mutable_data_ptr<T>(), *into_weights = d_weights.mutable_data_ptr<T>();
    if (wants_values && wants_weights)
      run(ChosenGradient<T, true, true>(choices, order, d_sums, into_values, into_weights));
    else if (wants_values)
      run(ChosenGradient<T, true, false>(choices, order, d_sums, into_values, into_weights));
    else
      run(ChosenGradient<T, false, true>(choices, order, d_sums, into_values, into_weights));
  });
  return {d_values, d_weights};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  library.def("product_key_address_cpu(Tensor query, Tensor half_keys, int k) -> (Tensor, Tensor)", tags);
  library.def(
      "product_key_address_cpu_backward(Tensor d_scores, Tensor query, Tensor half_keys, Tensor indices) -> "
      "(Tensor, Tensor)",
      tags);
  library.def("weighted_gather_cpu(Tensor values, Tensor weights, Tensor indices) -> Tensor", tags);
  library.def(
      "weighted_gather_cpu_backward(Tensor d_vectors, Tensor values, Tensor weights, Tensor indices, "
      "bool wants_values, bool wants_weights) -> (Tensor, Tensor)",
      tags);
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("product_key_address_cpu", &memnets::address);
  library.impl("product_key_address_cpu_backward", &memnets::address_backward);
  library.impl("weighted_gather_cpu", &memnets::gather);
  library.impl("weighted_gather_cpu_backward", &memnets::gather_backward);
}
