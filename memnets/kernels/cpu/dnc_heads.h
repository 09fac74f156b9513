// One step of a DNC's heads for one sequence, forward and backward, and what is kept of it in between.
#pragma once

#include <utility>
#include <vector>

#include "controller_weights.h"
#include "denormals.h"
#include "dnc_allocation.h"
#include "dnc_content.h"
#include "dnc_link.h"
#include "dnc_weights.h"
#include "trace.h"

namespace memnets {

constexpr double LINK_EPSILON = 1e-6;  // under the logarithm of the sharpening of what links say

// How many steps apart links are kept: about as many lie between two kept ones as are kept.
inline int64_t link_interval(int64_t steps) {
  int64_t interval = 1;
  while (interval * interval < steps) interval++;
  return interval;
}

// Everything the backward pass needs of the heads.
struct DNCTrace {
  Tensor emitted;   // [batch steps emitted]
  Tensor memories;  // [batch steps/interval+1 word slots]: before every MEMORY_INTERVAL-th step
  Tensor rows;      // [batch steps+1 rows slots]: what passes from step to step
  Tensor traces;    // [batch steps traces slots]
  Tensor links;     // [batch (steps-1)/interval+1 slots slots]: before every link_interval-th step
};

// One step of one sequence's heads: activates the interface, allocates, writes, links and reads.
template <class T>
struct DNCForward {
  const FlushDenormals flush;
  const DNCScheme& scheme;
  Trace<T> emitted, rows, traces;
  MemorySteps<T> memories;
  Trace<T> kept_links, links, final_memory;
  int64_t interval;
  ContentScratch<T> content;
  Ascending<T> order;
  std::vector<T> left, allocation, passed_on, before;

  // `link` holds the links before the first step, then those after each in turn.
  DNCForward(const DNCScheme& scheme, const DNCTrace& trace, const Tensor& first_memory, const Tensor& final_memory,
             const Tensor& link, int64_t steps, int64_t first, int64_t count)
      : scheme(scheme), emitted(trace.emitted), rows(trace.rows), traces(trace.traces),
        memories(trace.memories, first, count, 2),
        kept_links(trace.links), links(OneStep{link}), final_memory(OneStep{final_memory}),
        interval(link_interval(steps)), content(scheme), order(scheme.memory.slots), left(scheme.memory.slots),
        allocation(scheme.memory.slots), passed_on(scheme.memory.slots),
        before(scheme.deallocation ? memories.kept.size : 0) {
    memories.begin(first_memory, first, count);
  }

  void step(int64_t sequence, int64_t t, const T* raw, T* reads) {
    const int64_t slots = scheme.memory.slots, heads = scheme.heads(), num_reads = scheme.reads();
    const T *state = rows.at(sequence, t), *memory = memories.at(sequence, t);
    T *next = rows.at(sequence, t + 1), *next_memory = memories.at(sequence, t + 1);
    T *sent = emitted.at(sequence, t), *trace = traces.at(sequence, t), *written = next + num_reads * slots;
    T* usage = next + scheme.usage_row() * slots;
    emit(scheme, raw, sent);
    retention(sent + scheme.free_at(), state, left.data(), num_reads, slots);
    usage_after(state + scheme.usage_row() * slots, state + num_reads * slots, left.data(), usage, slots);
    allocate(usage, allocation.data(), passed_on.data(), order, slots);
    content_address(scheme, memory, sent, trace, num_reads, heads, content);
    write_weights(scheme, sent, allocation.data(), trace + (scheme.content_trace(num_reads) + 1) * slots, written);
    write(before_write(scheme, memory, left.data(), before.data()), written, sent + scheme.erase_at(),
          sent + scheme.add_at(), next_memory, scheme.memory);
    if (scheme.link) link(sequence, t, sent, state, next, trace);
    content_address(scheme, next_memory, sent, trace, 0, num_reads, content);
    for (int64_t h = 0; h < num_reads; h++) {
      read_weights(scheme, sent, trace, h, next + h * slots);
      read(next_memory, next + h * slots, reads + h * scheme.memory.word, slots, scheme.memory.word);
    }
  }

  void link(int64_t sequence, int64_t t, const T* sent, const T* state, T* next, T* trace) {
    const int64_t slots = scheme.memory.slots, num_reads = scheme.reads();
    const T *written = next + num_reads * slots, *precedence = state + scheme.precedence_row() * slots;
    T* now = links.at(sequence, 0);
    if (t % interval == 0 && t / interval < kept_links.rows)
      std::copy_n(now, links.size, kept_links.at(sequence, t / interval));
    follow_links(now, written, precedence, state, trace + scheme.forward_trace() * slots,
                 trace + scheme.backward_trace() * slots, num_reads, slots);
    precedence_after(precedence, written, next + scheme.precedence_row() * slots, slots);
    for (int64_t h = 0; h < scheme.num_sharpenings(); h++)  // two of each head
      sharpen_found(sent[scheme.sharpening_at(0) + h], h % 2, h / 2, trace);
  }

  void sharpen_found(T power, bool backward, int64_t head, T* trace) {
    const int64_t slots = scheme.memory.slots;
    const int64_t found = backward ? scheme.backward_trace() : scheme.forward_trace();
    const int64_t sharp = backward ? scheme.sharp_backward_trace() : scheme.sharp_forward_trace();
    sharpen(power, trace + (found + head) * slots, trace + (sharp + head) * slots, content.address.scores.data(), slots,
            T(LINK_EPSILON));
  }

  void finish(int64_t sequence, int64_t steps) {
    const int64_t slots = scheme.memory.slots, word = scheme.memory.word;
    transpose<T>({memories.at(sequence, steps), slots}, {final_memory.at(sequence, 0), word}, word, slots);
  }
};

// Gradients of the state: of the final one at first, of the initial one at last; those of the memory as an NTM's.
struct DNCGradients {
  MaybeTensor given;
  Tensor wanted;
  Tensor rows;  // [batch rows slots]
  Tensor link;  // [batch slots slots]
};

// The gradient of `DNCForward::step`.
template <class T>
struct DNCBackward {
  const FlushDenormals flush;
  const DNCScheme& scheme;
  Trace<T> emitted, rows, traces;
  MemorySteps<T> memories;
  KeptSteps<T> links;
  MemoryGradients<T> d_memories;
  Trace<T> d_rows, d_links;
  ContentScratch<T> content;
  Ascending<T> order;
  std::vector<T> left, d_left, allocation, d_allocation, passed_on, before, scratch_to_write;
  std::vector<T> d_found, d_sharp, d_written, d_content, d_emitted;
  std::vector<int64_t> memories_from, links_from;  // the kept step from which a sequence's were last made again
  int64_t first;

  DNCBackward(const DNCScheme& scheme, const DNCTrace& trace, const DNCGradients& gradients, int64_t steps,
              int64_t first, int64_t count)
      : scheme(scheme), emitted(trace.emitted), rows(trace.rows), traces(trace.traces),
        memories(trace.memories, first, count, MEMORY_INTERVAL),
        links(trace.links, link_interval(steps), first, working_space(trace.links, count, link_interval(steps) - 1)),
        d_memories(gradients.given, gradients.wanted, scheme.memory.slots, scheme.memory.word, first, count),
        d_rows(OneStep{gradients.rows}), d_links(OneStep{gradients.link}), content(scheme),
        order(scheme.memory.slots), left(scheme.memory.slots), d_left(scheme.memory.slots),
        allocation(scheme.memory.slots), d_allocation(scheme.memory.slots), passed_on(scheme.memory.slots),
        before(scheme.deallocation ? memories.kept.size : 0), scratch_to_write(write_scratch(scheme.memory)),
        d_found(3 * scheme.reads() * scheme.memory.slots), d_sharp(scheme.memory.slots), d_written(scheme.memory.slots),
        d_content(scheme.memory.slots), d_emitted(scheme.emitted()), memories_from(count, -1), links_from(count, -1),
        first(first) {}

  void step(int64_t sequence, int64_t t, const T* d_reads, T* d_raw) {
    make_memories(sequence, t);
    if (scheme.link) make_links(sequence, t);
    T* d_state = d_rows.at(sequence, 0);
    read_step(sequence, t, d_reads, d_state);
    std::copy_n(d_state + scheme.reads() * scheme.memory.slots, scheme.memory.slots, d_written.data());
    std::fill_n(d_state, scheme.reads() * scheme.memory.slots, T(0));
    if (scheme.link) link_step(sequence, t, d_state);
    write_step(sequence, t, d_state);
    emit_backward(scheme, emitted.at(sequence, t), d_emitted.data(), d_raw);
  }

  void finish(int64_t sequence) { d_memories.finish(sequence); }

  // What the step read and how it chose to: gradients of its read weights become those of links and contents.
  void read_step(int64_t sequence, int64_t t, const T* d_reads, T* d_weights) {
    const int64_t slots = scheme.memory.slots, word = scheme.memory.word, num_reads = scheme.reads();
    const T *sent = emitted.at(sequence, t), *memory = memories.at(sequence, t + 1), *trace = traces.at(sequence, t);
    T *d_memory = d_memories.at(sequence), *d_sent = d_emitted.data();
    multiply_add<T>({d_reads, word}, {memory, slots}, {d_weights, slots}, num_reads, word, slots);
    read_backward(d_memory, rows.at(sequence, t + 1), d_reads, scheme.memory);
    for (int64_t h = 0; h < num_reads; h++) {
      const T* d_weight = d_weights + h * slots;
      if (scheme.link) modes_backward(sent, trace, h, d_weight, d_sent);
      content_backward(scheme, memory, sent, trace, h, scheme.link ? d_content.data() : d_weight, d_memory, d_sent,
                       content);
    }
  }

  // The gradients of a head's modes, of its content weights, and of what it found along the links.
  void modes_backward(const T* sent, const T* trace, int64_t h, const T* d_weight, T* d_sent) {
    const int64_t slots = scheme.memory.slots;
    const T *modes = sent + scheme.modes_at(h), *found = trace + (scheme.content_trace(h) + 1) * slots;
    T* d_modes = d_sent + scheme.modes_at(h);
    d_modes[1] = dot(d_weight, found, slots);
    for (int64_t n = 0; n < slots; n++) d_content[n] = modes[1] * d_weight[n];
    for (int way = 0; way < 2; way++) {  // forward, backward
      const T* plain = trace + ((way ? scheme.backward_trace() : scheme.forward_trace()) + h) * slots;
      const T* sharp = trace + ((way ? scheme.sharp_backward_trace() : scheme.sharp_forward_trace()) + h) * slots;
      T* d_plain = d_found.data() + (way * scheme.reads() + h) * slots;
      T* d_way = scheme.link_sharpening ? d_sharp.data() : d_plain;
      const T mode = modes[way ? 0 : 2];
      d_modes[way ? 0 : 2] = dot(d_weight, sharp, slots);
      for (int64_t n = 0; n < slots; n++) d_way[n] = mode * d_weight[n];
      if (scheme.link_sharpening)
        d_sent[scheme.sharpening_at(h) + way] =
            sharpen_backward(sent[scheme.sharpening_at(h) + way], plain, sharp, d_way, d_plain, slots, T(LINK_EPSILON));
    }
  }

  void link_step(int64_t sequence, int64_t t, T* d_state) {
    const int64_t slots = scheme.memory.slots, num_reads = scheme.reads();
    const T *state = rows.at(sequence, t), *written = rows.at(sequence, t + 1) + num_reads * slots;
    const T *precedence = state + scheme.precedence_row() * slots, *d_ahead = d_found.data();
    T* d_precedence = d_state + scheme.precedence_row() * slots;
    precedence_backward(precedence, written, d_precedence, d_written.data(), slots);
    follow_links_backward(links.at(sequence, t), d_links.at(sequence, 0), written, precedence, state, d_ahead,
                          d_ahead + num_reads * slots, d_written.data(), d_precedence, d_state, num_reads, slots);
  }

  // What the step wrote, where it did, and what it freed.
  void write_step(int64_t sequence, int64_t t, T* d_state) {
    const int64_t slots = scheme.memory.slots, num_reads = scheme.reads();
    const T *sent = emitted.at(sequence, t), *trace = traces.at(sequence, t), *memory = memories.at(sequence, t);
    const T *state = rows.at(sequence, t), *next = rows.at(sequence, t + 1), *written = next + num_reads * slots;
    const T *usage = state + scheme.usage_row() * slots, *next_usage = next + scheme.usage_row() * slots;
    T *d_memory = d_memories.at(sequence), *d_sent = d_emitted.data();
    T *d_usage = d_state + scheme.usage_row() * slots, *d_write = d_state + num_reads * slots;
    retention(sent + scheme.free_at(), state, left.data(), num_reads, slots);
    allocate(next_usage, allocation.data(), passed_on.data(), order, slots);
    write_backward(before_write(scheme, memory, left.data(), before.data()), d_memory, written,
                   sent + scheme.erase_at(), sent + scheme.add_at(), d_written.data(), d_sent + scheme.erase_at(),
                   d_sent + scheme.add_at(), scratch_to_write.data(), scheme.memory);
    before_write_backward(scheme, memory, left.data(), d_memory, d_left.data());
    write_weights_backward(scheme, sent, allocation.data(), trace + (scheme.content_trace(num_reads) + 1) * slots,
                           d_written.data(), d_allocation.data(), d_content.data(), d_sent);
    content_backward(scheme, memory, sent, trace, num_reads, d_content.data(), d_memory, d_sent, content);
    allocate_backward(next_usage, d_allocation.data(), passed_on.data(), d_usage, order, slots);
    usage_backward(usage, state + num_reads * slots, left.data(), d_usage, d_write, d_left.data(), slots);
    retention_backward(sent + scheme.free_at(), state, d_left.data(), d_sent + scheme.free_at(), d_state, num_reads,
                       slots);
  }

  // Write the memories that weren't kept between the last kept one before step t and the step's end.
  void make_memories(int64_t sequence, int64_t t) {
    const int64_t from = t - t % MEMORY_INTERVAL;
    if (std::exchange(memories_from[sequence - first], from) == from) return;
    for (int64_t step = from; step <= t && !memories.is_kept(step + 1); step++) {
      const T *sent = emitted.at(sequence, step), *state = rows.at(sequence, step);
      retention(sent + scheme.free_at(), state, left.data(), scheme.reads(), scheme.memory.slots);
      write(before_write(scheme, memories.at(sequence, step), left.data(), before.data()),
            rows.at(sequence, step + 1) + scheme.reads() * scheme.memory.slots, sent + scheme.erase_at(),
            sent + scheme.add_at(), memories.at(sequence, step + 1), scheme.memory);
    }
  }

  // The links between the last kept ones up to step t and that step: a row of all of them after the other.
  void make_links(int64_t sequence, int64_t t) {
    const int64_t from = t - t % links.interval, slots = scheme.memory.slots;
    if (std::exchange(links_from[sequence - first], from) == from) return;
    for (int64_t i = 0; i < slots; i++)
      for (int64_t step = from; step < t; step++)
        link_row(links.at(sequence, step) + i * slots, links.at(sequence, step + 1) + i * slots,
                 rows.at(sequence, step + 1) + scheme.reads() * slots,
                 rows.at(sequence, step) + scheme.precedence_row() * slots, i, slots);
  }
};

}  // namespace memnets
