// Content addressing of a DNC's heads, by whole words or by what a head's mask leaves of them (Csordas & Schmidhuber
// 2019, section 3.1), and the rows of slots it keeps.
#pragma once

#include <vector>

#include "dnc_interface.h"

namespace memnets {

// 1 / sqrt(sum_w mask(w)^2 M(n, w)^2 + epsilon) of every slot n.
template <class T>
inline void masked_inverse_norms(const T* MEMNETS_RESTRICT memory, const T* MEMNETS_RESTRICT mask,
                                 T* MEMNETS_RESTRICT result, int64_t slots, int64_t word) {
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    Vector<T> sum = {};
    for (int64_t w = 0; w < word; w++) {
      const Vector<T> seen = mask[w] * lanes.load(memory + w * slots + n);
      sum += seen * seen;
    }
    lanes.store(result + n, inverse_root(sum + T(NORM_EPSILON)));
  });
}

// `similarity_backward` of a masked head, for the gradients of its key and its mask. `seen`: the key times the mask;
// -`d_seen_norm` times that is what its norm adds to its gradient.
template <class T>
inline void masked_similarity_backward(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT d_memory,
                                       const T* MEMNETS_RESTRICT seen, const T* MEMNETS_RESTRICT key,
                                       const T* MEMNETS_RESTRICT mask, T d_seen_norm, const T* MEMNETS_RESTRICT d_dots,
                                       const T* MEMNETS_RESTRICT d_norms, T* MEMNETS_RESTRICT d_key,
                                       T* MEMNETS_RESTRICT d_mask, int64_t slots, int64_t word) {
  each_block(word, [&](auto block, int64_t w) MEMNETS_INLINE {
    Vector<T> dots[block] = {}, squares[block] = {};
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> change = lanes.load(d_dots + n), norm = lanes.load(d_norms + n);
      repeat(block, [&](auto j) MEMNETS_INLINE {
        const Vector<T> row = lanes.load(memory + (w + j) * slots + n), shrunk = norm * row;
        T* d_row = d_memory + (w + j) * slots + n;
        lanes.store(d_row, lanes.load(d_row) + mask[w + j] * (seen[w + j] * change - mask[w + j] * shrunk));
        dots[j] += change * row;
        squares[j] += shrunk * row;
      });
    });
    repeat(block, [&](auto j) MEMNETS_INLINE {
      const int64_t i = w + j;
      const T d_seen = mask[i] * sum_of<T>(dots[j]) - d_seen_norm * seen[i];  // but that of masking the memory
      d_key[i] = mask[i] * d_seen;
      d_mask[i] = key[i] * d_seen + seen[i] * sum_of<T>(dots[j]) - mask[i] * sum_of<T>(squares[j]);
    });
  });
}

// Working space of content addressing in one thread.
template <class T>
struct ContentScratch {
  explicit ContentScratch(const DNCScheme& scheme)
      : address(scheme.memory.slots, 0), dots(scheme.heads() * scheme.memory.slots), norms(scheme.memory.slots),
        unused(scheme.memory.slots), keys(scheme.heads() * scheme.memory.word) {}
  AddressScratch<T> address;
  std::vector<T> dots, norms, unused, keys;
};

// Content weights of heads `first` to `end` - 1, into the rows a step keeps.
template <class T>
inline void content_address(const DNCScheme& scheme, const T* memory, const T* sent, T* traces, int64_t first,
                            int64_t end, ContentScratch<T>& scratch) {
  const int64_t slots = scheme.memory.slots, word = scheme.memory.word;
  T *dots = scratch.dots.data(), *keys = scratch.keys.data();
  std::fill_n(dots, (end - first) * slots, T(0));
  if (!scheme.mask) inverse_norms(memory, traces + scheme.norm_trace(first) * slots, slots, word, T(NORM_EPSILON));
  for (int64_t h = first; h < end; h++) {
    const T *mask = sent + scheme.mask_at(h), *key = sent + scheme.key_at(h);
    for (int64_t w = 0; w < word; w++) keys[(h - first) * word + w] = scheme.mask ? mask[w] * key[w] : key[w];
    if (scheme.mask) masked_inverse_norms(memory, mask, traces + scheme.norm_trace(h) * slots, slots, word);
  }
  multiply_add<T>({keys, word}, {memory, slots}, {dots, slots}, end - first, word, slots);
  for (int64_t h = first; h < end; h++) {
    T* similarity = traces + scheme.content_trace(h) * slots;
    address_content(scheme.content(), sent + scheme.key_at(h), dots + (h - first) * slots,
                    traces + scheme.norm_trace(h) * slots, similarity, similarity + slots,
                    scratch.address.scores.data(), slots);
  }
}

// Its gradient for one head, from that of the content weights: `d_memory` is added to, `d_sent` overwritten.
template <class T>
inline void content_backward(const DNCScheme& scheme, const T* memory, const T* sent, const T* traces, int64_t head,
                             const T* d_content, T* d_memory, T* d_sent, ContentScratch<T>& scratch) {
  const int64_t slots = scheme.memory.slots, word = scheme.memory.word, at = scheme.key_at(head);
  T *d_dots = scratch.dots.data(), *d_norms = scratch.norms.data();
  std::fill_n(d_norms, slots, T(0));
  const T d_key_norm = address_backward(
      scheme.content(), sent + at, traces + scheme.norm_trace(head) * slots, scratch.unused.data(),
      traces + scheme.content_trace(head) * slots, scratch.unused.data(), d_content, scratch.unused.data(), d_sent + at,
      d_dots, d_norms, scratch.address, slots);
  if (scheme.mask) {
    const int64_t mask_at = scheme.mask_at(head);
    masked_similarity_backward(memory, d_memory, sent + at, sent + scheme.whole_key_at(head), sent + mask_at,
                               d_key_norm, d_dots, d_norms, d_sent + at, d_sent + mask_at, slots, word);
    return;
  }
  for (int64_t w = 0; w < word; w++) d_sent[at + w] = -d_key_norm * sent[at + w];
  similarity_backward(memory, d_memory, sent + at, d_sent + at, 0, d_dots, d_norms, {slots, word, 1, 0});
}

}  // namespace memnets
