// What one step leaves behind for another, and for the backward pass.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "matrix.h"

namespace memnets {

// What one step of every sequence left behind, a `[batch steps ...]` tensor: `rows` steps are kept, older ones
// overwritten. Where a trace has a row more than there are steps, row 0 is the initial state.
template <class T>
struct Trace {
  explicit Trace(const at::Tensor& tensor)
      : start(tensor.data_ptr<T>()), rows(tensor.size(1)),
        size(tensor.numel() / std::max<int64_t>(tensor.size(0) * tensor.size(1), 1)) {}
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

// Something too large to be kept at every step, as a memory, step by step: what every `interval`-th step found lies in
// the trace, the others in working space, `[sequences places ...]` from sequence `first` on, a place after the other.
template <class T>
struct KeptSteps {
  KeptSteps(const at::Tensor& kept, int64_t interval, int64_t first, const at::Tensor& space)
      : kept(kept), interval(interval), first(first), places(space.size(1)), space(space) {}
  T* at(int64_t sequence, int64_t step) const {
    return is_kept(step) ? kept.at(sequence, step / interval) : place(sequence, step);
  }
  T* place(int64_t sequence, int64_t step) const {
    return space.data_ptr<T>() + ((sequence - first) * places + step % places) * kept.size;
  }
  // Without a backward pass only the first has a row.
  bool is_kept(int64_t step) const { return step % interval == 0 && step / interval < kept.rows; }
  Trace<T> kept;
  int64_t interval, first, places;
  at::Tensor space;
};

// Working space for some sequences of a `[batch kept ...]` trace.
inline at::Tensor working_space(const at::Tensor& trace, int64_t sequences, int64_t places) {
  std::vector<int64_t> shape = trace.sizes().vec();
  shape[0] = sequences, shape[1] = places;
  return at::empty(shape, trace.options());
}

// How many steps apart memories are kept. Those between are written anew from what was emitted and the weights: every
// step's memory would be more than half of what is kept.
constexpr int64_t MEMORY_INTERVAL = 6;

// The memories of a chunk's `rows` sequences, step by step, those that aren't kept in `places` steps of working space.
template <class T>
struct MemorySteps : KeptSteps<T> {
  MemorySteps(const at::Tensor& memories, int64_t first, int64_t rows, int64_t places)
      : KeptSteps<T>(memories, MEMORY_INTERVAL, first, working_space(memories, rows, places)) {}
};

}  // namespace memnets
