// Reading from and writing to one sequence's memory (NTM paper, equations 2 to 4).
//
// Here a memory lies word by word, M[word][slots], so that every inner loop runs over slots.
#pragma once

#include "matrix.h"
#include "vector_math.h"

namespace memnets {

// Have `size` numbers brought near, to be written soon.
template <class T>
inline void fetch(const T* start, int64_t size) {
  for (int64_t i = 0; i < size; i += 64 / sizeof(T)) __builtin_prefetch(start + i, 1);
}

struct MemorySizes {
  int64_t slots, word, read_heads, write_heads;
};

// 1 / sqrt(|M(n)|^2 + epsilon) of every slot n.
template <class T>
inline void inverse_norms(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT result, int64_t slots, int64_t word,
                          T epsilon) {
  constexpr int64_t block = 4 * Vector<T>::width;
  for (int64_t first = 0; first < slots; first += block) {
    const int64_t size = std::min(block, slots - first);
    T sums[block] = {};
    if (size == block) {  // a constant length: the sums stay in registers
      for (int64_t w = 0; w < word; w++) {
        const T* MEMNETS_RESTRICT row = memory + w * slots + first;
        MEMNETS_SIMD for (int64_t n = 0; n < block; n++) sums[n] += row[n] * row[n];
      }
    } else {
      for (int64_t w = 0; w < word; w++) {
        const T* MEMNETS_RESTRICT row = memory + w * slots + first;
        MEMNETS_SIMD for (int64_t n = 0; n < size; n++) sums[n] += row[n] * row[n];
      }
    }
    MEMNETS_SIMD for (int64_t n = 0; n < size; n++) result[first + n] = T(1) / std::sqrt(sums[n] + epsilon);
  }
}

// keep(n) = prod_h (1 - w_h(n) erase_h) over the write heads but `without` (-1: all), for one component of the words.
template <class T>
inline void kept(const T* weights, const T* erase, T* MEMNETS_RESTRICT keep, const MemorySizes& sizes, int64_t w,
                 int64_t without = -1) {
  std::fill_n(keep, sizes.slots, T(1));
  for (int64_t h = 0; h < sizes.write_heads; h++) {
    if (h == without) continue;
    const T* MEMNETS_RESTRICT head = weights + h * sizes.slots;
    const T factor = erase[h * sizes.word + w];
    MEMNETS_SIMD for (int64_t n = 0; n < sizes.slots; n++) keep[n] *= T(1) - head[n] * factor;
  }
}

// r_h = sum_n w_h(n) M(n) (equation 2), then M'(n) = M(n) prod_h (1 - w_h(n) erase_h) + sum_h w_h(n) add_h (3 and 4).
//
// `reads` [read_heads word]; `erase` and `add` [write_heads word]; `scratch` [slots].
template <class T>
inline void read_and_write(const T* MEMNETS_RESTRICT memory, const T* read_weights,
                           const T* MEMNETS_RESTRICT write_weights, const T* erase, const T* add,
                           T* MEMNETS_RESTRICT reads, T* MEMNETS_RESTRICT next, T* MEMNETS_RESTRICT scratch,
                           const MemorySizes& sizes) {
  const int64_t slots = sizes.slots;
  for (int64_t w = 0; w < sizes.word; w++) {
    const T* MEMNETS_RESTRICT row = memory + w * slots;
    T* MEMNETS_RESTRICT after = next + w * slots;
    for (int64_t h = 0; h < sizes.read_heads; h++) reads[h * sizes.word + w] = dot(read_weights + h * slots, row, slots);
    if (sizes.write_heads == 1) {
      const T erased = erase[w], added = add[w];
      MEMNETS_SIMD for (int64_t n = 0; n < slots; n++)
        after[n] = row[n] + write_weights[n] * (added - erased * row[n]);
      continue;
    }
    kept(write_weights, erase, scratch, sizes, w);
    MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) after[n] = row[n] * scratch[n];
    for (int64_t h = 0; h < sizes.write_heads; h++)
      add_scaled(after, write_weights + h * slots, add[h * sizes.word + w], slots);
  }
}

// First half of the gradient of `read_and_write`: of the weights and of what was erased and added.
//
// `upcoming` is the memory that will be needed next: it is fetched meanwhile.
// `d_next` is the gradient of the new memory, `d_reads` that of the read vectors. `d_read_weights` and
// `d_write_weights` grow; `d_erase` and `d_add` are set.
template <class T>
inline void access_backward(const T* MEMNETS_RESTRICT memory, const T* upcoming, const T* MEMNETS_RESTRICT d_next,
                            const T* MEMNETS_RESTRICT d_reads, const T* MEMNETS_RESTRICT write_weights, const T* erase,
                            const T* add, T* MEMNETS_RESTRICT d_read_weights, T* MEMNETS_RESTRICT d_write_weights,
                            T* MEMNETS_RESTRICT d_erase, T* MEMNETS_RESTRICT d_add, T* MEMNETS_RESTRICT scratch,
                            const MemorySizes& sizes) {
  const int64_t slots = sizes.slots;
  multiply_add<T>({d_reads, sizes.word}, {memory, slots}, {d_read_weights, slots}, sizes.read_heads, sizes.word, slots);
  for (int64_t w = 0; w < sizes.word; w++) {
    const T* MEMNETS_RESTRICT row = memory + w * slots;
    const T* MEMNETS_RESTRICT d_row = d_next + w * slots;
    for (int64_t n = 0; n < slots; n += 64 / sizeof(T)) __builtin_prefetch(upcoming + w * slots + n);
    for (int64_t h = 0; h < sizes.write_heads; h++) {
      const int64_t i = h * sizes.word + w;
      const T erased = erase[i], added = add[i];
      const T* MEMNETS_RESTRICT head = write_weights + h * slots;
      T* MEMNETS_RESTRICT d_head = d_write_weights + h * slots;
      if (sizes.write_heads == 1) {
        MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) {
          scratch[n] = d_row[n] * row[n];
          d_head[n] += added * d_row[n] - erased * scratch[n];
        }
      } else {
        kept(write_weights, erase, scratch, sizes, w, h);
        MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) {
          scratch[n] *= d_row[n] * row[n];
          d_head[n] += added * d_row[n] - erased * scratch[n];
        }
      }
      d_erase[i] = -dot(head, scratch, slots);
      d_add[i] = dot(head, d_row, slots);
    }
  }
}

// Second half, once addressing has had its gradient: of the memory before the step (in place of `d_memory`, that of the
// memory after it), and of the keys (`d_keys[h]`, one per head, each of `word` numbers; added to).
//
// `d_dots` [heads slots] and `d_norms` [slots] come from `address_backward`; with no keys (`keys` null) they are unread.
template <class T>
inline void memory_backward(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT d_memory, const T* d_reads,
                            const T* MEMNETS_RESTRICT read_weights, const T* MEMNETS_RESTRICT write_weights, const T* erase, const T* keys,
                            int64_t key_stride, const T* d_dots, const T* MEMNETS_RESTRICT d_norms, T* d_keys,
                            T* MEMNETS_RESTRICT scratch, const MemorySizes& sizes) {
  const int64_t slots = sizes.slots, heads = sizes.read_heads + sizes.write_heads;
  for (int64_t w = 0; w < sizes.word; w++) {
    const T* MEMNETS_RESTRICT row = memory + w * slots;
    T* MEMNETS_RESTRICT d_row = d_memory + w * slots;
    if (sizes.write_heads == 1 && sizes.read_heads == 1 && keys) {  // the usual heads, in one pass
      const T erased = erase[w], d_read = d_reads[w], key = keys[w], write_key = keys[key_stride + w];
      const T *MEMNETS_RESTRICT d_dot = d_dots, *MEMNETS_RESTRICT d_write_dot = d_dots + slots;
      MEMNETS_SIMD for (int64_t n = 0; n < slots; n++)
        d_row[n] = d_row[n] * (T(1) - erased * write_weights[n]) - d_norms[n] * row[n] + d_read * read_weights[n] +
                   key * d_dot[n] + write_key * d_write_dot[n];
      d_keys[w] += dot(d_dot, row, slots);
      d_keys[key_stride + w] += dot(d_write_dot, row, slots);
      continue;
    }
    kept(write_weights, erase, scratch, sizes, w);
    if (keys)
      MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) d_row[n] = d_row[n] * scratch[n] - d_norms[n] * row[n];
    else
      MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) d_row[n] *= scratch[n];
    for (int64_t h = 0; h < sizes.read_heads; h++)
      add_scaled(d_row, read_weights + h * slots, d_reads[h * sizes.word + w], slots);
    for (int64_t h = 0; keys && h < heads; h++) {
      const T* MEMNETS_RESTRICT d_dot = d_dots + h * slots;
      add_scaled(d_row, d_dot, keys[h * key_stride + w], slots);
      d_keys[h * key_stride + w] += dot(d_dot, row, slots);
    }
  }
}

}  // namespace memnets
