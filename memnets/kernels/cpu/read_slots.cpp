// Sums over the slots that indices name, and their two transposes: together closed under differentiation.
//
// values [batch key_heads slots word], of which a query of head i takes those of key head i // (heads / key_heads) at its
// indices [batch heads time k], with weights [batch heads time k], into vectors [batch heads time word].
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <atomic>
#include <tuple>

#include "simd.h"

namespace memnets {
namespace {

using at::Tensor;
constexpr const char* OP = "read_slots";
constexpr int64_t AHEAD = 4;  // slots that are fetched before they are needed: they lie anywhere

void check_shape(const char* name, const Tensor& tensor, at::IntArrayRef shape) {
  TORCH_CHECK(tensor.sizes() == shape, OP, ": ", name, " must be ", shape, ", not ", tensor.sizes());
}

struct Sizes {
  Sizes(const Tensor& indices, int64_t key_heads, int64_t slots, int64_t word)
      : batch(indices.size(0)), heads(indices.size(1)), time(indices.size(2)), k(indices.size(3)),
        key_heads(key_heads), slots(slots), word(word) {
    TORCH_CHECK(key_heads >= 1 && heads % key_heads == 0, OP, ": heads must be a multiple of key heads");
    TORCH_CHECK(indices.scalar_type() == at::kLong, OP, ": indices must be int64");
  }
  int64_t rows() const { return batch * heads * time; }
  int64_t sharing() const { return heads / key_heads * time; }  // rows that take from the same slots
  at::IntArrayRef values() const { return shape = {batch, key_heads, slots, word}; }
  at::IntArrayRef vectors() const { return shape = {batch, heads, time, word}; }
  at::IntArrayRef weights() const { return shape = {batch, heads, time, k}; }

  int64_t batch, heads, time, k, key_heads, slots, word;
  mutable std::vector<int64_t> shape;
};

// work(row, its indices) for all rows, those of `grain` that lie together by one thread; indices are looked at first.
template <class Work>
void for_rows(const Sizes& sizes, const Tensor& indices, int64_t grain, const Work& work) {
  const int64_t* first = indices.const_data_ptr<int64_t>();
  std::atomic<bool> known = true;
  at::parallel_for(0, (sizes.rows() + grain - 1) / std::max<int64_t>(grain, 1), 1, [&](int64_t from, int64_t to) {
    for (int64_t row = from * grain; row < std::min(to * grain, sizes.rows()); row++) {
      const int64_t* own = first + row * sizes.k;
      bool all = true;
      for (int64_t j = 0; j < sizes.k; j++) all &= own[j] >= 0 && own[j] < sizes.slots;
      all ? work(row, own) : known.store(false);
    }
  });
  TORCH_CHECK_INDEX(known, OP, ": indices must be slots from 0 to ", sizes.slots - 1);
}

template <class T>
void fetch(const T* values, const int64_t* indices, int64_t j, const Sizes& sizes) {
  if (j + AHEAD >= sizes.k) return;
  const char* next = reinterpret_cast<const char*>(values + indices[j + AHEAD] * sizes.word);
  for (size_t byte = 0; byte < sizes.word * sizeof(T); byte += 64) __builtin_prefetch(next + byte);
}

// vectors = Σ_j weights_j values(indices_j)
Tensor sum_slots(const Tensor& given_values, const Tensor& given_weights, const Tensor& given_indices) {
  const Tensor values = given_values.contiguous(), weights = given_weights.contiguous();
  const Tensor indices = given_indices.contiguous();
  TORCH_CHECK(values.dim() == 4 && indices.dim() == 4, OP, ": values and indices must have 4 axes");
  const Sizes sizes(indices, values.size(1), values.size(2), values.size(3));
  check_shape("values", values, {sizes.batch, sizes.key_heads, sizes.slots, sizes.word});
  check_shape("weights", weights, sizes.weights());
  const Tensor vectors = at::empty(sizes.vectors(), values.options());
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), OP, [&] {
    using T = scalar_t;
    for_rows(sizes, indices, 16, [&](int64_t row, const int64_t* own) {
      const T* group = values.const_data_ptr<T>() + row / sizes.sharing() * sizes.slots * sizes.word;
      const T* weight = weights.const_data_ptr<T>() + row * sizes.k;
      T* vector = vectors.mutable_data_ptr<T>() + row * sizes.word;
      std::fill_n(vector, sizes.word, T(0));
      for (int64_t j = 0; j < sizes.k; j++) {
        fetch(group, own, j, sizes);
        add_scaled(vector, group + own[j] * sizes.word, weight[j], sizes.word);
      }
    });
  });
  return vectors;
}

// weights_j = values(indices_j) · vectors
Tensor dot_slots(const Tensor& given_values, const Tensor& given_vectors, const Tensor& given_indices) {
  const Tensor values = given_values.contiguous(), vectors = given_vectors.contiguous();
  const Tensor indices = given_indices.contiguous();
  TORCH_CHECK(values.dim() == 4 && indices.dim() == 4, OP, ": values and indices must have 4 axes");
  const Sizes sizes(indices, values.size(1), values.size(2), values.size(3));
  check_shape("values", values, {sizes.batch, sizes.key_heads, sizes.slots, sizes.word});
  check_shape("vectors", vectors, sizes.vectors());
  const Tensor weights = at::empty(sizes.weights(), values.options());
  AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), OP, [&] {
    using T = scalar_t;
    for_rows(sizes, indices, 16, [&](int64_t row, const int64_t* own) {
      const T* group = values.const_data_ptr<T>() + row / sizes.sharing() * sizes.slots * sizes.word;
      const T* vector = vectors.const_data_ptr<T>() + row * sizes.word;
      T* weight = weights.mutable_data_ptr<T>() + row * sizes.k;
      for (int64_t j = 0; j < sizes.k; j++) {
        fetch(group, own, j, sizes);
        weight[j] = dot(vector, group + own[j] * sizes.word, sizes.word);
      }
    });
  });
  return weights;
}

// values(i) = Σ weights_j vectors over all rows and j with indices_j = i, in their order
Tensor scatter_slots(const Tensor& given_weights, const Tensor& given_vectors, const Tensor& given_indices,
                     int64_t key_heads, int64_t slots) {
  const Tensor weights = given_weights.contiguous(), vectors = given_vectors.contiguous();
  const Tensor indices = given_indices.contiguous();
  TORCH_CHECK(vectors.dim() == 4 && indices.dim() == 4, OP, ": vectors and indices must have 4 axes");
  const Sizes sizes(indices, key_heads, slots, vectors.size(3));
  check_shape("weights", weights, sizes.weights());
  check_shape("vectors", vectors, sizes.vectors());
  const Tensor values = at::zeros(sizes.values(), vectors.options());
  AT_DISPATCH_FLOATING_TYPES(vectors.scalar_type(), OP, [&] {
    using T = scalar_t;
    for_rows(sizes, indices, sizes.sharing(), [&](int64_t row, const int64_t* own) {
      T* group = values.mutable_data_ptr<T>() + row / sizes.sharing() * sizes.slots * sizes.word;
      const T* vector = vectors.const_data_ptr<T>() + row * sizes.word;
      const T* weight = weights.const_data_ptr<T>() + row * sizes.k;
      for (int64_t j = 0; j < sizes.k; j++) {
        fetch(group, own, j, sizes);
        add_scaled(group + own[j] * sizes.word, vector, weight[j], sizes.word);
      }
    });
  });
  return values;
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def("sum_slots(Tensor values, Tensor weights, Tensor indices) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def("dot_slots(Tensor values, Tensor vectors, Tensor indices) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def(
      "scatter_slots(Tensor weights, Tensor vectors, Tensor indices, int key_heads, int slots) -> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("sum_slots", &memnets::sum_slots);
  library.impl("dot_slots", &memnets::dot_slots);
  library.impl("scatter_slots", &memnets::scatter_slots);
}
