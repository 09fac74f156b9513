// One step of a sparse access memory's heads for one sequence, forward and backward, and what is kept of it in between.
#pragma once

#include <vector>

#include "addressing.h"
#include "controller_weights.h"
#include "sparse_memory.h"
#include "trace.h"

namespace memnets {

// What the heads leave behind for the backward pass: never a memory per step, only the rows that a step wrote over.
struct SparseTrace {
  Tensor emitted;   // [batch steps interface]
  Tensor weights;   // [batch steps+1 heads reads]: read weights
  Tensor slots;     // [batch steps+1 heads places], whole numbers: slots read, and the unused one that was written to
  Tensor replaced;  // [batch steps writes word]: rows before the write
  Tensor memories;  // [batch slots word]: after the last step
};

// The state that isn't in the trace, before the first step at first and after the last one at last.
struct SparseState {
  Tensor memory, write_weights, last_access, clock, write_slots;
};

// One step of one sequence's heads: activates the interface, writes, finds slots and reads them.
template <class T>
struct SparseForward {
  SparseForward(const SparseSizes& sizes, double threshold, const SparseTrace& saved, const SparseState& state,
                int64_t first, int64_t rows)
      : sizes(sizes), threshold(threshold), first(first), emitted(saved.emitted), weights(saved.weights),
        replaced(saved.replaced), memory(OneStep{state.memory}), write_weights(OneStep{state.write_weights}),
        slots(saved.slots), last_access(OneStep{state.last_access}), clock(OneStep{state.clock}),
        write_slots(OneStep{state.write_slots}), last_memories(saved.memories),
        dots(sizes.heads * sizes.padded()), scores(sizes.reads), row(sizes.word), access(sizes.slots, T(0)) {
    for (int64_t b = first; b < first + rows; b++) memories.emplace_back(sizes, memory.at(b, 0), last_access.at(b, 0));
  }

  void step(int64_t sequence, int64_t t, const T* raw, T* reads) {
    T* sent = emitted.at(sequence, t);
    SparseMemory<T>& own = memories[sequence - first];
    for (int64_t h = 0; h < sizes.heads; h++) activate(raw + h * sizes.slice(), sent + h * sizes.slice());
    choose_writes(sequence, t, own, sent);
    write(sequence, t, own, sent);
    search(own, sent);
    for (int64_t h = 0; h < sizes.heads; h++) {
      const int64_t* chosen = slots.at(sequence, t + 1) + h * sizes.places();
      best(own, h, slots.at(sequence, t + 1) + h * sizes.places());
      address(own, sent + h * sizes.slice(), h, chosen, weights.at(sequence, t + 1) + h * sizes.reads);
      read(own, chosen, weights.at(sequence, t + 1) + h * sizes.reads, reads + h * sizes.word);
    }
    mark(sequence, t, own);
  }

  void finish(int64_t sequence, int64_t) {
    SparseMemory<T>& own = memories[sequence - first];
    T* rows = memory.at(sequence, 0);
    for (int64_t slot = 0; slot < own.used; slot++) own.panels.get(slot, rows + slot * sizes.word);
    if (last_memories.numel()) std::copy_n(rows, sizes.slots * sizes.word, last_rows(sequence));
  }
  T* last_rows(int64_t sequence) const { return last_memories.data_ptr<T>() + sequence * sizes.slots * sizes.word; }

  void activate(const T* MEMNETS_RESTRICT raw, T* MEMNETS_RESTRICT sent) const {
    each<T>(sizes.word, [&](int64_t w, auto lanes) MEMNETS_INLINE {
      lanes.store(sent + w, hyperbolic_tangent(lanes.load(raw + w)));
      lanes.store(sent + sizes.add_at() + w, hyperbolic_tangent(lanes.load(raw + sizes.add_at() + w)));
    });
    sent[sizes.strength_at()] = softplus_of(raw[sizes.strength_at()]);
    sent[sizes.interpolation_at()] = sigmoid_of(raw[sizes.interpolation_at()]);
    sent[sizes.write_gate_at()] = sigmoid_of(raw[sizes.write_gate_at()]);
  }

  // Each head writes to what it read a step ago, and to the oldest slot that no head before it took.
  void choose_writes(int64_t sequence, int64_t t, SparseMemory<T>& own, const T* sent) {
    const int64_t places = sizes.places();
    int64_t oldest = own.recency.end;
    for (int64_t h = 0; h < sizes.heads; h++) {
      const T gate = sent[h * sizes.slice() + sizes.write_gate_at()];
      const T share = sent[h * sizes.slice() + sizes.interpolation_at()];
      const T* before = weights.at(sequence, t) + h * sizes.reads;
      int64_t* into = write_slots.at(sequence, 0) + h * places;
      T* amounts = write_weights.at(sequence, 0) + h * places;
      std::copy_n(slots.at(sequence, t) + h * places, sizes.reads, into);
      for (int64_t j = 0; j < sizes.reads; j++) amounts[j] = gate * (share * before[j]);
      oldest = own.recency.after(oldest);
      amounts[sizes.reads] = gate * (1 - share);
      into[sizes.reads] = slots.at(sequence, t + 1)[h * places + sizes.reads] = oldest;
    }
  }

  // Erase the oldest slots, then add.
  void write(int64_t sequence, int64_t t, SparseMemory<T>& own, const T* sent) {
    const int64_t places = sizes.places(), *written = write_slots.at(sequence, 0);
    T* rows = replaced.at(sequence, t);
    for (int64_t i = 0; i < sizes.writes(); i++) own.panels.get(written[i], rows + i * sizes.word);
    std::fill(row.begin(), row.end(), T(0));
    for (int64_t h = 0; h < sizes.heads; h++) own.panels.set(written[h * places + sizes.reads], row.data());
    for (int64_t i = 0; i < sizes.writes(); i++) {
      const T* add = sent + i / places * sizes.slice() + sizes.add_at();
      const T amount = write_weights.at(sequence, 0)[i];
      T* into = own.panels.row(written[i]);
      for (int64_t w = 0; w < sizes.word; w++) into[w * PANEL] += amount * add[w];
      own.used = std::max(own.used, written[i] + 1);
    }
    for (int64_t i = 0; i < sizes.writes(); i++) {
      own.panels.get(written[i], row.data());
      own.norms[written[i]] = inverse_norm(row.data(), sizes.word);
    }
  }

  // Of unused slots the lowest are as good as any: no more of them need be looked at than a head reads.
  int64_t searched(const SparseMemory<T>& own) const { return std::min(own.used + sizes.reads, sizes.slots); }

  // Products of every key with every slot.
  void search(SparseMemory<T>& own, const T* sent) {
    const int64_t stride = sizes.padded();
    for (int64_t h = 0; h < sizes.heads; h++) std::fill_n(dots.data() + h * stride, searched(own), T(0));
    for (int64_t slot = 0; slot < searched(own); slot += PANEL)
      multiply_add<T>({sent, sizes.slice()}, {own.panels.row(slot), PANEL}, {dots.data() + slot, stride}, sizes.heads,
                      sizes.word, PANEL);
  }

  // The slots of largest cosine, the largest first, ties to the lower slot. (The key's norm doesn't change the order.)
  void best(const SparseMemory<T>& own, int64_t head, int64_t* chosen) {
    const T *similarity = dots.data() + head * sizes.padded(), *norms = own.norms.data();
    const int64_t end = searched(own);
    int64_t found = 0;
    for (int64_t first = 0; first < end; first += WIDTH<T>) {
      const Vector<T> values = load(similarity + first) * load(norms + first);
      if (found == sizes.reads && !(largest_of<T>(values) > scores[found - 1])) continue;
      for (int64_t slot = first; slot < std::min(first + WIDTH<T>, end); slot++) {
        const T value = values[slot - first];
        if (found == sizes.reads && !(value > scores[found - 1])) continue;
        int64_t place = found < sizes.reads ? found++ : found - 1;
        for (; place > 0 && value > scores[place - 1]; place--)
          scores[place] = scores[place - 1], chosen[place] = chosen[place - 1];
        scores[place] = value, chosen[place] = slot;
      }
    }
  }

  // Softmax over the chosen slots of strength times cosine.
  void address(const SparseMemory<T>& own, const T* head, int64_t h, const int64_t* chosen, T* into) {
    const T factor = head[sizes.strength_at()] * inverse_norm(head, sizes.word);
    for (int64_t j = 0; j < sizes.reads; j++)
      scores[j] = factor * dots[h * sizes.padded() + chosen[j]] * own.norms[chosen[j]];
    softmax(scores.data(), into, sizes.reads);
  }

  void read(SparseMemory<T>& own, const int64_t* chosen, const T* amounts, T* vector) {
    std::fill_n(vector, sizes.word, T(0));
    for (int64_t j = 0; j < sizes.reads; j++) {
      const T* from = own.panels.row(chosen[j]);
      for (int64_t w = 0; w < sizes.word; w++) vector[w] += amounts[j] * from[w * PANEL];
    }
  }

  // Note when slots were used: now, where the weights of all heads together exceed the threshold.
  void mark(int64_t sequence, int64_t t, SparseMemory<T>& own) {
    const int64_t now = ++*clock.at(sequence, 0);
    reached.clear();
    const auto add = [&](int64_t slot, T amount) {
      access[slot] += amount;
      reached.push_back(slot);
    };
    for (int64_t i = 0; i < sizes.writes(); i++) add(write_slots.at(sequence, 0)[i], write_weights.at(sequence, 0)[i]);
    for (int64_t h = 0; h < sizes.heads; h++)
      for (int64_t j = 0; j < sizes.reads; j++)
        add(slots.at(sequence, t + 1)[h * sizes.places() + j], weights.at(sequence, t + 1)[h * sizes.reads + j]);
    std::sort(reached.begin(), reached.end());
    for (const int64_t slot : reached) {  // a slot that is there twice has no access left at its second turn
      if (access[slot] > threshold) {
        last_access.at(sequence, 0)[slot] = now;
        own.recency.renew(slot);
        own.used = std::max(own.used, slot + 1);
      }
      access[slot] = 0;
    }
  }

  const SparseSizes& sizes;
  T threshold;
  int64_t first;
  Trace<T> emitted, weights, replaced, memory, write_weights;
  Trace<int64_t> slots, last_access, clock, write_slots;
  Tensor last_memories;
  std::vector<SparseMemory<T>> memories;
  std::vector<T> dots, scores, row, access;
  std::vector<int64_t> reached;
};

// Gradients of the final state and then of the initial one.
struct SparseGradients {
  Tensor memory, read_weights, write_weights;
};

// The gradient of `SparseForward::step`. `memories` [batch slots word] hold what the last step left and, as steps go by
// in reverse, what each found.
template <class T>
struct SparseBackward {
  SparseBackward(const SparseSizes& sizes, const SparseTrace& saved, const Tensor& memories,
                 const SparseGradients& room)
      : sizes(sizes), emitted(saved.emitted), weights(saved.weights), replaced(saved.replaced),
        memories(OneStep{memories}), d_memories(OneStep{room.memory}),
        d_read_weights(OneStep{room.read_weights}), d_write_weights(OneStep{room.write_weights}),
        slots(saved.slots), cosines(sizes.reads), norms(sizes.reads), d_used(sizes.reads), d_sent(sizes.slice()) {}

  void step(int64_t sequence, int64_t t, const T* d_reads, T* d_raw) {
    const int64_t slice = sizes.slice();
    for (int64_t h = 0; h < sizes.heads; h++)
      read_backward(sequence, t, h, d_reads + h * sizes.word, d_raw + h * slice);
    for (int64_t h = 0; h < sizes.heads; h++) write_backward(sequence, t, h, d_raw + h * slice);
    for (int64_t h = 0; h < sizes.heads; h++)
      std::fill_n(d_memories.at(sequence, 0) + oldest(sequence, t, h) * sizes.word, sizes.word, T(0));
    std::fill_n(d_write_weights.at(sequence, 0), sizes.writes(), T(0));  // only the last step's are part of the state
    const T* rows = replaced.at(sequence, t);
    for (int64_t i = 0; i < sizes.writes(); i++)
      std::copy_n(rows + i * sizes.word, sizes.word, memories.at(sequence, 0) + written(sequence, t, i) * sizes.word);
  }

  void finish(int64_t) {}

  int64_t oldest(int64_t sequence, int64_t t, int64_t h) const {
    return slots.at(sequence, t + 1)[h * sizes.places() + sizes.reads];
  }
  int64_t written(int64_t sequence, int64_t t, int64_t i) const {
    return slots.at(sequence, i % sizes.places() < sizes.reads ? t : t + 1)[i];
  }

  // Of key and strength; what is read, and compared with the key, adds to the memory's.
  void read_backward(int64_t sequence, int64_t t, int64_t h, const T* d_read, T* d_raw) {
    const int64_t word = sizes.word, reads = sizes.reads;
    const T *key = emitted.at(sequence, t) + h * sizes.slice(), *used = weights.at(sequence, t + 1) + h * reads;
    const int64_t* chosen = slots.at(sequence, t + 1) + h * sizes.places();
    const T strength = key[sizes.strength_at()], key_norm = inverse_norm(key, word);
    T mean = 0, d_strength = 0, d_key_norm = 0;
    for (int64_t j = 0; j < reads; j++) {
      const T* row = memories.at(sequence, 0) + chosen[j] * word;
      norms[j] = inverse_norm(row, word);
      cosines[j] = dot(key, row, word) * key_norm * norms[j];
      d_used[j] = d_read_weights.at(sequence, 0)[h * reads + j] + dot(d_read, row, word);
      mean += used[j] * d_used[j];
    }
    T* d_key = d_sent.data();
    std::fill_n(d_key, word, T(0));
    for (int64_t j = 0; j < reads; j++) {
      const T *row = memories.at(sequence, 0) + chosen[j] * word, d_score = used[j] * (d_used[j] - mean);
      const T d_cosine = strength * d_score, d_dot = d_cosine * key_norm * norms[j];
      T* d_row = d_memories.at(sequence, 0) + chosen[j] * word;
      d_strength += d_score * cosines[j];
      d_key_norm += d_cosine * cosines[j];
      add_scaled(d_key, row, d_dot, word);
      add_scaled(d_row, d_read, used[j], word);
      add_scaled(d_row, key, d_dot, word);
      add_scaled(d_row, row, -d_cosine * cosines[j] * norms[j] * norms[j], word);
    }
    add_scaled(d_key, key, -d_key_norm * key_norm * key_norm, word);
    tanh_backward(key, d_key, d_raw);
    d_raw[sizes.strength_at()] = d_strength * softplus_slope_of(strength);
  }

  // Of gates, what is added, and the last step's read weights.
  void write_backward(int64_t sequence, int64_t t, int64_t h, T* d_raw) {
    const int64_t word = sizes.word, reads = sizes.reads, places = sizes.places();
    const T *head = emitted.at(sequence, t) + h * sizes.slice(), *add = head + sizes.add_at();
    const T share = head[sizes.interpolation_at()], gate = head[sizes.write_gate_at()];
    const T *before = weights.at(sequence, t) + h * reads, *d_amounts = d_write_weights.at(sequence, 0) + h * places;
    T d_share = 0, d_gate = 0;
    T* d_add = d_sent.data();
    std::fill_n(d_add, word, T(0));
    for (int64_t j = 0; j < places; j++) {
      const T* d_row = d_memories.at(sequence, 0) + written(sequence, t, h * places + j) * word;
      const T part = j < reads ? share * before[j] : 1 - share, d_amount = dot(d_row, add, word) + d_amounts[j];
      add_scaled(d_add, d_row, gate * part, word);
      d_gate += part * d_amount;
      d_share += gate * d_amount * (j < reads ? before[j] : T(-1));
      if (j < reads) d_read_weights.at(sequence, 0)[h * reads + j] = gate * share * d_amount;
    }
    tanh_backward(add, d_add, d_raw + sizes.add_at());
    d_raw[sizes.interpolation_at()] = d_share * share * (1 - share);
    d_raw[sizes.write_gate_at()] = d_gate * gate * (1 - gate);
  }

  void tanh_backward(const T* MEMNETS_RESTRICT value, const T* MEMNETS_RESTRICT d_value,
                             T* MEMNETS_RESTRICT d_raw) const {
    each<T>(sizes.word, [&](int64_t w, auto lanes) MEMNETS_INLINE {
      const Vector<T> own = lanes.load(value + w);
      lanes.store(d_raw + w, lanes.load(d_value + w) * (1 - own * own));
    });
  }

  const SparseSizes& sizes;
  Trace<T> emitted, weights, replaced, memories, d_memories, d_read_weights, d_write_weights;
  Trace<int64_t> slots;
  std::vector<T> cosines, norms, d_used, d_sent;
};

}  // namespace memnets
