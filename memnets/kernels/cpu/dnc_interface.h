// What a DNC's controller says to its memory in a step: where each part lies, and its activation.
#pragma once

#include <algorithm>

#include "addressing.h"
#include "memory.h"

namespace memnets {

// Parts of a DNC, and where each lies in the raw interface and in what is emitted, the activated one. Heads: the read
// heads, then the one that writes.
struct DNCScheme {
  MemorySizes memory;
  bool mask, deallocation, link, link_sharpening;

  int64_t reads() const { return memory.read_heads; }
  int64_t heads() const { return memory.read_heads + 1; }
  // Content addressing of a head as `address_content` knows it: its key, then its strength.
  HeadScheme content() const { return {true, true, true, false, false, 0, memory.word}; }

  // The raw interface, in the order of DNCScheme.sizes in memnets/ops/dnc_sequence.py.
  int64_t raw_key(int64_t head) const { return head < reads() ? head * memory.word : reads() * (memory.word + 1); }
  int64_t raw_strength(int64_t head) const {
    return head < reads() ? reads() * memory.word + head : raw_key(head) + memory.word;
  }
  int64_t raw_write() const { return raw_strength(reads()) + 1; }  // the parts from erase to read modes
  int64_t raw_mask() const { return raw_write() + write_size(); }
  int64_t raw_sharpening() const { return raw_mask() + (mask ? heads() * memory.word : 0); }
  int64_t interface() const { return raw_sharpening() + num_sharpenings(); }

  // What is emitted: keys, times their masks if there are any, each with its strength; erase, add, free gates,
  // allocation gate, write gate and read modes as in the interface; sharpenings; slopes of what became 1 + softplus;
  // keys themselves and masks, if there are masks.
  int64_t key_at(int64_t head) const { return head * (memory.word + 1); }
  int64_t strength_at(int64_t head) const { return key_at(head) + memory.word; }
  int64_t erase_at() const { return key_at(heads()); }
  int64_t add_at() const { return erase_at() + memory.word; }
  int64_t free_at() const { return add_at() + memory.word; }
  int64_t allocation_gate_at() const { return free_at() + reads(); }
  int64_t write_gate_at() const { return allocation_gate_at() + 1; }
  int64_t modes_at(int64_t head) const { return write_gate_at() + 1 + 3 * head; }
  int64_t write_size() const { return 2 * memory.word + reads() + 2 + num_modes(); }
  int64_t sharpening_at(int64_t head) const { return erase_at() + write_size() + 2 * head; }
  int64_t slopes_at() const { return sharpening_at(0) + num_sharpenings(); }
  int64_t whole_key_at(int64_t head) const { return slopes_at() + heads() + num_sharpenings() + head * memory.word; }
  int64_t mask_at(int64_t head) const { return whole_key_at(heads()) + head * memory.word; }
  int64_t emitted() const { return mask ? mask_at(heads()) : whole_key_at(0); }
  int64_t num_modes() const { return link ? 3 * reads() : 0; }
  int64_t num_sharpenings() const { return link_sharpening ? 2 * reads() : 0; }

  // Rows of slots that pass from step to step: read weights, write weights, usage and, with links, precedence.
  int64_t usage_row() const { return heads(); }
  int64_t precedence_row() const { return heads() + 1; }
  int64_t num_rows() const { return heads() + (link ? 2 : 1); }

  // Rows of slots that a step keeps: similarity and content weights of every head; 1 / norms of the slots that were
  // read, then of those before the write, or of the slots as each head masks them; what read heads find forward and
  // backward along the links, and both sharpened.
  int64_t content_trace(int64_t head) const { return 2 * head; }
  int64_t norm_trace(int64_t head) const { return 2 * heads() + (mask ? head : head / reads()); }
  int64_t forward_trace() const { return norm_trace(heads() - 1) + 1; }
  int64_t backward_trace() const { return forward_trace() + reads(); }
  int64_t sharp_forward_trace() const { return backward_trace() + (link_sharpening ? reads() : -reads()); }
  int64_t sharp_backward_trace() const { return sharp_forward_trace() + reads(); }
  int64_t num_traces() const { return forward_trace() + (link ? 2 : 0) * (link_sharpening ? 2 : 1) * reads(); }
};

// 1 + softplus of numbers, and its slope, which small ones couldn't be told from afterwards.
template <class T>
inline void one_plus(T raw, T& value, T& slope) {
  value = T(1) + softplus_of(raw);
  slope = sigmoid_of(raw);
}

template <class T>
inline void sigmoids(const T* MEMNETS_RESTRICT raw, T* MEMNETS_RESTRICT values, int64_t size) {
  each<T>(size, [&](int64_t i, auto lanes) MEMNETS_INLINE { lanes.store(values + i, sigmoid(lanes.load(raw + i))); });
}
template <class T>
inline void sigmoids_backward(const T* MEMNETS_RESTRICT values, const T* MEMNETS_RESTRICT d_values,
                              T* MEMNETS_RESTRICT d_raw, int64_t size) {
  each<T>(size, [&](int64_t i, auto lanes) MEMNETS_INLINE {
    const Vector<T> value = lanes.load(values + i);
    lanes.store(d_raw + i, lanes.load(d_values + i) * value * (1 - value));
  });
}

// Raw interface -> emitted: keys and add as they are, strengths and sharpenings 1 + softplus, modes softmax, the others
// sigmoid.
template <class T>
inline void emit(const DNCScheme& scheme, const T* MEMNETS_RESTRICT raw, T* MEMNETS_RESTRICT sent) {
  const int64_t word = scheme.memory.word, heads = scheme.heads();
  if (scheme.mask) sigmoids(raw + scheme.raw_mask(), sent + scheme.mask_at(0), heads * word);
  for (int64_t h = 0; h < heads; h++) {
    const T* key = raw + scheme.raw_key(h);
    std::copy_n(key, word, sent + scheme.key_at(h));
    one_plus(raw[scheme.raw_strength(h)], sent[scheme.strength_at(h)], sent[scheme.slopes_at() + h]);
    if (!scheme.mask) continue;
    std::copy_n(key, word, sent + scheme.whole_key_at(h));
    for (int64_t w = 0; w < word; w++) sent[scheme.key_at(h) + w] *= sent[scheme.mask_at(h) + w];
  }
  const T* written = raw + scheme.raw_write();
  sigmoids(written, sent + scheme.erase_at(), word);
  std::copy_n(written + word, word, sent + scheme.add_at());
  sigmoids(written + 2 * word, sent + scheme.free_at(), scheme.reads() + 2);
  for (int64_t h = 0; h < scheme.num_modes() / 3; h++)
    softmax(written + 2 * word + scheme.reads() + 2 + 3 * h, sent + scheme.modes_at(h), 3);
  for (int64_t i = 0; i < scheme.num_sharpenings(); i++)
    one_plus(raw[scheme.raw_sharpening() + i], sent[scheme.sharpening_at(0) + i],
             sent[scheme.slopes_at() + heads + i]);
}

// The gradient of `emit`, but that of a masked key: `d_sent` has it for the key itself.
template <class T>
inline void emit_backward(const DNCScheme& scheme, const T* MEMNETS_RESTRICT sent, const T* MEMNETS_RESTRICT d_sent,
                          T* MEMNETS_RESTRICT d_raw) {
  const int64_t word = scheme.memory.word, heads = scheme.heads();
  if (scheme.mask)
    sigmoids_backward(sent + scheme.mask_at(0), d_sent + scheme.mask_at(0), d_raw + scheme.raw_mask(), heads * word);
  for (int64_t h = 0; h < heads; h++) {
    std::copy_n(d_sent + scheme.key_at(h), word, d_raw + scheme.raw_key(h));
    d_raw[scheme.raw_strength(h)] = d_sent[scheme.strength_at(h)] * sent[scheme.slopes_at() + h];
  }
  T* d_written = d_raw + scheme.raw_write();
  sigmoids_backward(sent + scheme.erase_at(), d_sent + scheme.erase_at(), d_written, word);
  std::copy_n(d_sent + scheme.add_at(), word, d_written + word);
  sigmoids_backward(sent + scheme.free_at(), d_sent + scheme.free_at(), d_written + 2 * word, scheme.reads() + 2);
  for (int64_t h = 0; h < scheme.num_modes() / 3; h++) {
    const T *modes = sent + scheme.modes_at(h), *d_modes = d_sent + scheme.modes_at(h);
    const T mean = dot(modes, d_modes, 3);
    for (int i = 0; i < 3; i++) d_written[2 * word + scheme.reads() + 2 + 3 * h + i] = modes[i] * (d_modes[i] - mean);
  }
  for (int64_t i = 0; i < scheme.num_sharpenings(); i++)
    d_raw[scheme.raw_sharpening() + i] = d_sent[scheme.sharpening_at(0) + i] * sent[scheme.slopes_at() + heads + i];
}

}  // namespace memnets
