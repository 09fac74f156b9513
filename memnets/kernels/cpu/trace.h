// What one step leaves behind for another, and for the backward pass.
#pragma once

#include <ATen/ATen.h>

#include "matrix.h"

namespace memnets {

// What one step of every sequence left behind, a `[batch steps ...]` tensor: `rows` steps are kept, older ones
// overwritten. Where a trace has a row more than there are steps, row 0 is the initial state.
template <class T>
struct Trace {
  explicit Trace(const at::Tensor& tensor)
      : start(tensor.data_ptr<T>()), rows(tensor.size(1)), size(tensor.numel() / (tensor.size(0) * tensor.size(1))) {}
  T* at(int64_t sequence, int64_t step) const { return start + (sequence * rows + step % rows) * size; }
  // A step of the sequences from `first` on, a row each: its numbers from `offset` on.
  Rows<T> across(int64_t first, int64_t step, int64_t offset = 0) const {
    return {at(first, step) + offset, rows * size};
  }
  // Have a step brought near: it is needed when the other sequences have had theirs.
  void fetch(int64_t sequence, int64_t step) const {
    if (step < 0 || step >= rows) return;
    const T* from = at(sequence, step);
    for (int64_t i = 0; i < size; i += 64 / sizeof(T)) __builtin_prefetch(from + i, 0, 2);
  }
  T* start;
  int64_t rows, size;
};

// How many steps apart memories are kept. Those between are written anew from what was emitted and the weights: every
// step's memory would be more than half of what is kept.
constexpr int64_t MEMORY_INTERVAL = 6;

// The memories of a chunk's sequences, step by step: kept ones lie in the trace, those between in working space,
// `places` steps of them at a time.
template <class T>
struct MemorySteps {
  MemorySteps(const at::Tensor& memories, int64_t first, int64_t rows, int64_t places)
      : kept(memories), first(first), places(places), space(at::empty({rows, places, kept.size}, memories.options())) {}
  T* at(int64_t sequence, int64_t step) const {
    if (is_kept(step)) return kept.at(sequence, step / MEMORY_INTERVAL);
    return space.data_ptr<T>() + ((sequence - first) * places + step % places) * kept.size;
  }
  // Without a backward pass only the first memory has a row.
  bool is_kept(int64_t step) const { return step % MEMORY_INTERVAL == 0 && step / MEMORY_INTERVAL < kept.rows; }
  Trace<T> kept;
  int64_t first, places;
  at::Tensor space;
};

}  // namespace memnets
