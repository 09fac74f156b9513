// One step of an NTM's heads for one sequence, forward and backward, and what is kept of it in between.
#pragma once

#include <vector>

#include "addressing.h"
#include "controller_weights.h"
#include "memory.h"
#include "trace.h"

namespace memnets {

struct HeadSizes {
  MemorySizes memory;
  HeadScheme scheme;

  int64_t heads() const { return memory.read_heads + memory.write_heads; }
  // One head of each kind.
  bool usual() const { return memory.read_heads == 1 && memory.write_heads == 1; }
  // The interface: every head's slice, then what each write head erases, then what each adds.
  int64_t erase_at() const { return heads() * scheme.size(); }
  int64_t add_at() const { return erase_at() + memory.write_heads * memory.word; }
  int64_t interface() const { return add_at() + memory.write_heads * memory.word; }
};

// What the heads leave behind for the backward pass.
struct HeadTrace {
  Tensor emitted;   // [batch steps interface]
  Tensor memories;  // [batch steps/interval+1 word slots]: before every MEMORY_INTERVAL-th step
  Tensor weights;   // [batch steps+1 heads slots]
  Tensor traces;    // [batch steps heads num_traces slots]
};

// What passes from step to step, each `dense`; or its gradient.
struct HeadState {
  Tensor memory;                       // [batch slots word]
  Tensor read_weights, write_weights;  // [batch read_heads slots] [batch write_heads slots]
};

// One step of one sequence's heads: activates the interface, addresses, reads and writes.
template <class T>
struct HeadsForward {
  const HeadSizes& sizes;
  Trace<T> emitted, weights, traces, final_memory, final_read_weights, final_write_weights;
  MemorySteps<T> memories;
  AddressScratch<T> scratch;
  std::vector<T> dots, inverse, zeros;

  // Memories are written in place, but for those that are kept.
  HeadsForward(const HeadSizes& sizes, const HeadTrace& saved, const HeadState& before, const HeadState& after,
               int64_t first, int64_t rows)
      : sizes(sizes), emitted(saved.emitted), weights(saved.weights), traces(saved.traces),
        final_memory(OneStep{after.memory}), final_read_weights(OneStep{after.read_weights}),
        final_write_weights(OneStep{after.write_weights}), memories(saved.memories, first, rows, 1),
        scratch(sizes.memory.slots, sizes.scheme.shift_width), dots(sizes.heads() * sizes.memory.slots),
        inverse(sizes.memory.slots), zeros(sizes.memory.slots) {
    memories.begin(before.memory, first, rows);
    const Trace<T> read_weights(OneStep{before.read_weights}), write_weights(OneStep{before.write_weights});
    for (int64_t b = first; b < first + rows; b++) {
      T* writing = std::copy_n(read_weights.at(b, 0), read_weights.size, weights.at(b, 0));
      std::copy_n(write_weights.at(b, 0), write_weights.size, writing);
    }
  }

  void step(int64_t sequence, int64_t t, const T* raw, T* reads) {
    const int64_t slots = sizes.memory.slots, word = sizes.memory.word, heads = sizes.heads();
    const int64_t reading = sizes.memory.read_heads, num_traces = sizes.scheme.num_traces();
    const T* memory = memories.at(sequence, t);
    T *sent = emitted.at(sequence, t), *next = memories.at(sequence, t + 1), *used = weights.at(sequence, t + 1);
    activate(raw, sent);
    if (sizes.scheme.cosine) inverse_norms(memory, inverse.data(), slots, word, T(NORM_EPSILON));
    if (sizes.scheme.key) {
      const Rows<const T> keys{sent, sizes.scheme.size()};
      multiply<T>({zeros.data(), 0}, keys, {memory, slots}, {dots.data(), slots}, heads, word, slots);
    }
    for (int64_t h = 0; h < heads; h++)
      address(sizes.scheme, sent + h * sizes.scheme.size(), dots.data() + h * slots, inverse.data(),
              weights.at(sequence, t) + h * slots, traces.at(sequence, t) + h * num_traces * slots, used + h * slots,
              scratch, slots);
    const T *writing = used + reading * slots, *erase = sent + sizes.erase_at(), *add = sent + sizes.add_at();
    if (sizes.usual()) return read_and_write(memory, used, writing, erase, add, next, reads, slots, word);
    for (int64_t h = 0; h < reading; h++) read(memory, used + h * slots, reads + h * word, slots, word);
    write(memory, writing, erase, add, next, sizes.memory);
  }

  void finish(int64_t sequence, int64_t steps) {
    const int64_t slots = sizes.memory.slots, word = sizes.memory.word;
    transpose<T>({memories.at(sequence, steps), slots}, {final_memory.at(sequence, 0), word}, word, slots);
    const T *reading = weights.at(sequence, steps), *writing = reading + final_read_weights.size;
    std::copy_n(reading, final_read_weights.size, final_read_weights.at(sequence, 0));
    std::copy_n(writing, final_write_weights.size, final_write_weights.at(sequence, 0));
  }

  void activate(const T* MEMNETS_RESTRICT raw, T* MEMNETS_RESTRICT sent) const {
    for (int64_t h = 0; h < sizes.heads(); h++)
      emit(sizes.scheme, raw + h * sizes.scheme.size(), sent + h * sizes.scheme.size());
    const int64_t size = sizes.add_at() - sizes.erase_at();
    const T *raw_erase = raw + sizes.erase_at(), *raw_add = raw + sizes.add_at();
    T *erase = sent + sizes.erase_at(), *add = sent + sizes.add_at();
    each<T>(size, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      lanes.store(erase + i, sigmoid(lanes.load(raw_erase + i)));
      lanes.store(add + i, hyperbolic_tangent(lanes.load(raw_add + i)));
    });
  }
};

// Gradients of the final state, `dense`, where there are any; and of the initial one, whose memory has no sequences if
// its gradient isn't wanted.
struct HeadGradients {
  MaybeTensor memory, read_weights, write_weights;
  HeadState initial;
};

// The gradient of `HeadsForward::step`.
template <class T>
struct HeadsBackward {
  const HeadSizes& sizes;
  const Lengths& lengths;
  Trace<T> emitted, weights, traces, d_read_weights, d_write_weights;
  MemorySteps<T> memories;
  MemoryGradients<T> d_memories;
  AddressScratch<T> scratch;
  int64_t first;
  std::vector<T> d_all_weights, d_head_weights, d_dots, d_norms, d_emitted, inverse, scratch_to_write;

  HeadsBackward(const HeadSizes& sizes, const Lengths& lengths, const HeadTrace& saved, const HeadGradients& room,
                int64_t first, int64_t rows)
      : sizes(sizes), lengths(lengths), emitted(saved.emitted), weights(saved.weights), traces(saved.traces),
        d_read_weights(OneStep{room.initial.read_weights}), d_write_weights(OneStep{room.initial.write_weights}),
        memories(saved.memories, first, rows, MEMORY_INTERVAL),
        d_memories(room.memory, room.initial.memory, sizes.memory.slots, sizes.memory.word, first, rows),
        scratch(sizes.memory.slots, sizes.scheme.shift_width), first(first),
        d_all_weights(rows * sizes.heads() * sizes.memory.slots), d_head_weights(sizes.heads() * sizes.memory.slots),
        d_dots(sizes.heads() * sizes.memory.slots), d_norms(sizes.memory.slots), d_emitted(sizes.interface()),
        inverse(sizes.memory.slots), scratch_to_write(write_scratch(sizes.memory)) {
    take_up(room.read_weights, 0, rows);
    take_up(room.write_weights, sizes.memory.read_heads * sizes.memory.slots, rows);
  }

  // Gradients of a sequence's weights: of the final ones at first, of the initial ones at last.
  T* d_weights_of(int64_t sequence) {
    return d_all_weights.data() + (sequence - first) * sizes.heads() * sizes.memory.slots;
  }
  void take_up(const MaybeTensor& given, int64_t at, int64_t rows) {
    if (!given) return;
    const Trace<T> from(OneStep{*given});
    for (int64_t b = first; b < first + rows; b++) std::copy_n(from.at(b, 0), from.size, d_weights_of(b) + at);
  }

  // Write the memories that weren't kept between the last kept one up to step t and that step.
  void write_again(int64_t sequence, int64_t t) {
    for (int64_t step = t - t % MEMORY_INTERVAL; step < t; step++) {
      const T* sent = emitted.at(sequence, step);
      write(memories.at(sequence, step), weights.at(sequence, step + 1) + sizes.memory.read_heads * sizes.memory.slots,
            sent + sizes.erase_at(), sent + sizes.add_at(), memories.at(sequence, step + 1), sizes.memory);
    }
  }

  void step(int64_t sequence, int64_t t, const T* d_reads, T* d_raw) {
    if (t + 1 == lengths[sequence] || (t + 1) % MEMORY_INTERVAL == 0) write_again(sequence, t);
    T *d_memory = d_memories.at(sequence), *d_weights = d_weights_of(sequence);
    const int64_t slots = sizes.memory.slots, word = sizes.memory.word, heads = sizes.heads();
    const int64_t reads = sizes.memory.read_heads;
    const int64_t num_traces = sizes.scheme.num_traces(), size = sizes.scheme.size();
    const T *sent = emitted.at(sequence, t), *memory = memories.at(sequence, t);
    const T *used = weights.at(sequence, t + 1), *previous = weights.at(sequence, t);
    const T *erase = sent + sizes.erase_at(), *add = sent + sizes.add_at();
    T* d_used = d_head_weights.data();
    T* d_sent = d_emitted.data();
    traces.fetch(sequence, t - 1);
    std::copy_n(d_weights, heads * slots, d_used);
    const bool usual = sizes.usual() && sizes.scheme.key;
    if (usual) {
      use_backward(memory, d_memory, used + slots, d_reads, erase, add, d_used, d_used + slots, inverse.data(),
                   d_sent + sizes.erase_at(), d_sent + sizes.add_at(), sizes.memory);
      each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
        lanes.store(inverse.data() + n, inverse_root(lanes.load(inverse.data() + n) + T(NORM_EPSILON)));
      });
    } else {
      if (sizes.scheme.cosine) inverse_norms(memory, inverse.data(), slots, word, T(NORM_EPSILON));
      multiply_add<T>({d_reads, word}, {memory, slots}, {d_used, slots}, reads, word, slots);
      write_backward(memory, d_memory, used + reads * slots, erase, add, d_used + reads * slots,
                     d_sent + sizes.erase_at(), d_sent + sizes.add_at(), scratch_to_write.data(), sizes.memory);
    }
    weights.fetch(sequence, t - 1), emitted.fetch(sequence, t - 1);
    std::fill(d_norms.begin(), d_norms.end(), T(0));
    for (int64_t h = 0; h < heads; h++) {
      const T* head = sent + h * size;
      T* d_head = d_sent + h * size;
      const T d_key_norm = address_backward(
          sizes.scheme, head, inverse.data(), previous + h * slots,
          traces.at(sequence, t) + h * num_traces * slots, used + h * slots, d_used + h * slots, d_weights + h * slots,
          d_head, d_dots.data() + h * slots, d_norms.data(), scratch, slots);
      for (int64_t w = 0; sizes.scheme.key && w < word; w++) d_head[w] = -d_key_norm * head[w];
    }
    if (usual) {
      memory_backward(memory, d_memory, used, used + slots, d_reads, erase, sent, d_sent, size, d_dots.data(),
                      d_norms.data(), sizes.memory);
    } else {
      read_backward(d_memory, used, d_reads, sizes.memory);
      if (sizes.scheme.key)
        similarity_backward(memory, d_memory, sent, d_sent, size, d_dots.data(), d_norms.data(), sizes.memory);
    }
    activate_backward(sent, d_sent, d_raw);
  }

  void finish(int64_t sequence) {
    d_memories.finish(sequence);
    const T *reading = d_weights_of(sequence), *writing = reading + d_read_weights.size;
    std::copy_n(reading, d_read_weights.size, d_read_weights.at(sequence, 0));
    std::copy_n(writing, d_write_weights.size, d_write_weights.at(sequence, 0));
  }

  void activate_backward(const T* MEMNETS_RESTRICT sent, const T* MEMNETS_RESTRICT d_sent,
                         T* MEMNETS_RESTRICT d_raw) const {
    for (int64_t h = 0; h < sizes.heads(); h++) {
      const int64_t first = h * sizes.scheme.size();
      emit_backward(sizes.scheme, sent + first, d_sent + first, d_raw + first);
    }
    const int64_t erase_at = sizes.erase_at(), add_at = sizes.add_at();
    each<T>(add_at - erase_at, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const Vector<T> erase = lanes.load(sent + erase_at + i), add = lanes.load(sent + add_at + i);
      lanes.store(d_raw + erase_at + i, lanes.load(d_sent + erase_at + i) * erase * (1 - erase));
      lanes.store(d_raw + add_at + i, lanes.load(d_sent + add_at + i) * (1 - add * add));
    });
  }
};

}  // namespace memnets
