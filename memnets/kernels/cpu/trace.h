// What one step leaves behind for another, and for the backward pass.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <vector>

#include "matrix.h"

namespace memnets {

// A state, `[batch ...]`, taken for a trace of one step.
struct OneStep {
  const at::Tensor& tensor;
};

// What one step of every sequence left behind, a `[batch steps ...]` tensor: `rows` steps are kept, older ones
// overwritten. The sequences of a step, or the steps of a sequence, lie one after the other. Where a trace has a row
// more than there are steps, row 0 is the initial state.
template <class T>
struct Trace {
  explicit Trace(const at::Tensor& tensor)
      : start(tensor.data_ptr<T>()), rows(tensor.size(1)),
        size(tensor.numel() / std::max<int64_t>(tensor.size(0) * tensor.size(1), 1)), sequence_stride(tensor.stride(0)),
        step_stride(tensor.stride(1)) {}
  explicit Trace(OneStep state)
      : start(state.tensor.data_ptr<T>()), rows(1),
        size(state.tensor.numel() / std::max<int64_t>(state.tensor.size(0), 1)),
        sequence_stride(state.tensor.stride(0)), step_stride(0) {}
  T* at(int64_t sequence, int64_t step) const {
    return start + sequence * sequence_stride + (step < rows ? step : step % rows) * step_stride;
  }
  // A step of the sequences from `first` on, a row each: its numbers from `offset` on.
  Rows<T> across(int64_t first, int64_t step, int64_t offset = 0) const {
    return {at(first, step) + offset, sequence_stride};
  }
  // Have a step brought near that is needed when the other sequences have had their turn.
  void fetch(int64_t sequence, int64_t step) const {
    if (step < 0 || step >= rows) return;
    const T* from = at(sequence, step);
    for (int64_t i = 0; i < size; i += 64 / sizeof(T)) __builtin_prefetch(from + i, 0, 2);
  }
  T* start;
  int64_t rows, size, sequence_stride, step_stride;
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

// A state `[batch ...]`, each sequence's numbers one after the other; they may be the same for all of the batch.
inline at::Tensor dense(const at::Tensor& state) {
  int64_t stride = 1;
  for (int64_t axis = state.dim() - 1; axis > 0; stride *= state.size(axis--))
    if (state.size(axis) != 1 && state.stride(axis) != stride) return state.contiguous();
  return state;
}
inline std::optional<at::Tensor> dense(const std::optional<at::Tensor>& state) {
  return state ? std::optional(dense(*state)) : std::nullopt;
}

// The memories of a chunk's `rows` sequences, step by step, those that aren't kept in `places` steps of working space.
template <class T>
struct MemorySteps : KeptSteps<T> {
  MemorySteps(const at::Tensor& memories, int64_t first, int64_t rows, int64_t places)
      : KeptSteps<T>(memories, MEMORY_INTERVAL, first, working_space(memories, rows, places)),
        word(memories.size(2)), slots(memories.size(3)) {}
  // Take up the memories before the first step, `dense` [batch slots word].
  void begin(const at::Tensor& memory, int64_t first, int64_t rows) {
    const Trace<T> given(OneStep{memory});
    for (int64_t b = first; b < first + rows; b++)
      transpose<T>({given.at(b, 0), word}, {this->at(b, 0), slots}, slots, word);
  }
  int64_t word, slots;
};

// Gradients of a chunk's memories, word by word: of the final ones at first, of the initial ones at last.
template <class T>
struct MemoryGradients {
  // `given`, `dense`, and `wanted` [batch slots word], where there are any; `wanted` has no sequences else.
  MemoryGradients(const std::optional<at::Tensor>& given, const at::Tensor& wanted, int64_t slots, int64_t word,
                  int64_t first, int64_t rows)
      : wanted(OneStep{wanted}), is_wanted(wanted.size(0)), first(first), slots(slots), word(word),
        numbers(rows * slots * word, T(0)) {
    if (!given) return;
    const Trace<T> from(OneStep{*given});
    for (int64_t b = first; b < first + rows; b++)
      transpose<T>({from.at(b, 0), word}, {at(b), slots}, slots, word);
  }
  T* at(int64_t sequence) { return numbers.data() + (sequence - first) * slots * word; }
  // After a sequence's first step.
  void finish(int64_t sequence) {
    if (is_wanted) transpose<T>({at(sequence), slots}, {wanted.at(sequence, 0), word}, word, slots);
  }
  Trace<T> wanted;
  bool is_wanted;
  int64_t first, slots, word;
  std::vector<T> numbers;
};

}  // namespace memnets
