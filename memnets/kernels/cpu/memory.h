// Reading from and writing to one sequence's memory (NTM paper, equations 2 to 4).
//
// Here a memory lies word by word, M[word][slots], so that every inner loop runs over slots. Loops take a few words at a
// time: their sums over slots, and the slots' sums over them, then stay in registers.
#pragma once

#include <algorithm>

#include "matrix.h"
#include "vector_math.h"

namespace memnets {

struct MemorySizes {
  int64_t slots, word, read_heads, write_heads;
};

// 1 / sqrt(|M(n)|^2 + epsilon) of every slot n.
template <class T>
inline void inverse_norms(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT result, int64_t slots, int64_t word,
                          T epsilon) {
  constexpr int64_t BLOCK = 4 * WIDTH<T>;
  int64_t first = 0;
  for (; first + BLOCK <= slots; first += BLOCK) {
    Vector<T> sums[4] = {};
    for (int64_t w = 0; w < word; w++)
      for (int j = 0; j < 4; j++) {
        const Vector<T> row = load<T>(memory + w * slots + first + j * WIDTH<T>);
        sums[j] += row * row;
      }
    for (int j = 0; j < 4; j++) store<T>(result + first + j * WIDTH<T>, inverse_root(sums[j] + epsilon));
  }
  each<T>(slots - first, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    Vector<T> sum = {};
    for (int64_t w = 0; w < word; w++) {
      const Vector<T> row = lanes.load(memory + w * slots + first + n);
      sum += row * row;
    }
    lanes.store(result + first + n, inverse_root(sum + epsilon));
  });
}

// Read and write in one pass, for the usual heads: one of each.
template <class T>
inline void read_and_write(const T* memory, const T* MEMNETS_RESTRICT read_weights,
                           const T* MEMNETS_RESTRICT write_weights, const T* erase, const T* add, T* next,
                           T* MEMNETS_RESTRICT vector, int64_t slots, int64_t word) {
  each_block<4>(word, [&](auto block, int64_t w) MEMNETS_INLINE {
    Vector<T> sums[block] = {};
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> reading = lanes.load(read_weights + n), writing = lanes.load(write_weights + n);
      repeat(block, [&](auto j) MEMNETS_INLINE {
        const Vector<T> row = lanes.load(memory + (w + j) * slots + n);
        sums[j] += reading * row;
        lanes.store(next + (w + j) * slots + n, row + writing * (add[w + j] - erase[w + j] * row));
      });
    });
    repeat(block, [&](auto j) MEMNETS_INLINE { vector[w + j] = sum_of<T>(sums[j]); });
  });
}

// r = sum_n w(n) M(n) (equation 2).
template <class T>
inline void read(const T* MEMNETS_RESTRICT memory, const T* MEMNETS_RESTRICT weights, T* MEMNETS_RESTRICT vector,
                 int64_t slots, int64_t word) {
  each_block(word, [&](auto block, int64_t w) MEMNETS_INLINE {
    Vector<T> sums[block] = {};
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> weight = lanes.load(weights + n);
      repeat(block, [&](auto j) MEMNETS_INLINE { sums[j] += weight * lanes.load(memory + (w + j) * slots + n); });
    });
    repeat(block, [&](auto j) MEMNETS_INLINE { vector[w + j] = sum_of<T>(sums[j]); });
  });
}

// M'(n) = M(n) prod_h (1 - w_h(n) erase_h) + sum_h w_h(n) add_h (equations 3 and 4).
//
// `weights` [heads slots]; `erase` and `add` [heads word]. `next` may be `memory` itself.
template <class T>
inline void write(const T* memory, const T* MEMNETS_RESTRICT weights, const T* erase, const T* add, T* next,
                  const MemorySizes& sizes) {
  const int64_t slots = sizes.slots, word = sizes.word;
  each_block<4>(word, [&](auto block, int64_t w) MEMNETS_INLINE {
    Vector<T> kept[block], added[block];
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      repeat(block, [&](auto j) MEMNETS_INLINE { kept[j] = lanes.load(memory + (w + j) * slots + n), added[j] = Vector<T>{}; });
      for (int64_t h = 0; h < sizes.write_heads; h++) {
        const Vector<T> weight = lanes.load(weights + h * slots + n);
        repeat(block, [&](auto j) MEMNETS_INLINE {
          kept[j] -= kept[j] * weight * erase[h * word + w + j];
          added[j] += weight * add[h * word + w + j];
        });
      }
      repeat(block, [&](auto j) MEMNETS_INLINE { lanes.store(next + (w + j) * slots + n, kept[j] + added[j]); });
    });
  });
}

// How many numbers `write_backward` needs to work.
inline int64_t write_scratch(const MemorySizes& sizes) { return (2 + sizes.write_heads) * 2 * sizes.slots; }

// Gradients of the write heads' weights (added to), of what they erase and of what they add. `d_memory`, at first the
// gradient of the new memory, is at last that of the old one, as far as it was kept. `scratch` [write_scratch].
//
// A head's erasure acts on what the others keep, so that of those before it is kept of each, and that of those after it
// comes together as heads are gone through in reverse.
template <class T>
inline void write_backward(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT d_memory,
                           const T* MEMNETS_RESTRICT weights, const T* erase, const T* add,
                           T* MEMNETS_RESTRICT d_weights, T* MEMNETS_RESTRICT d_erase, T* MEMNETS_RESTRICT d_add,
                           T* MEMNETS_RESTRICT scratch, const MemorySizes& sizes) {
  const int64_t slots = sizes.slots, word = sizes.word, heads = sizes.write_heads;
  each_block<2>(word, [&](auto block, int64_t w) MEMNETS_INLINE {
    T *d_next = scratch, *d_kept = d_next + block * slots, *before = d_kept + block * slots;
    Vector<T> kept[block];
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      repeat(block, [&](auto j) MEMNETS_INLINE { kept[j] = Vector<T>{} + T(1); });
      for (int64_t h = 0; h < heads; h++) {
        const Vector<T> weight = lanes.load(weights + h * slots + n);
        repeat(block, [&](auto j) MEMNETS_INLINE {
          lanes.store(before + (h * block + j) * slots + n, kept[j]);
          kept[j] -= kept[j] * weight * erase[h * word + w + j];
        });
      }
      repeat(block, [&](auto j) MEMNETS_INLINE {
        T* d_row = d_memory + (w + j) * slots + n;
        const Vector<T> d_new = lanes.load(d_row);
        lanes.store(d_next + j * slots + n, d_new);
        lanes.store(d_kept + j * slots + n, d_new * lanes.load(memory + (w + j) * slots + n));
        lanes.store(d_row, d_new * kept[j]);
      });
    });
    for (int64_t h = heads - 1; h >= 0; h--) {
      const T *erased_by = erase + h * word + w, *added_by = add + h * word + w;
      Vector<T> erased[block] = {}, added[block] = {};
      each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
        const Vector<T> weight = lanes.load(weights + h * slots + n);
        Vector<T> d_weight = lanes.load(d_weights + h * slots + n);
        repeat(block, [&](auto j) MEMNETS_INLINE {
          const Vector<T> d_new = lanes.load(d_next + j * slots + n), d_after = lanes.load(d_kept + j * slots + n);
          const Vector<T> d_keep = d_after * lanes.load(before + (h * block + j) * slots + n);
          d_weight += added_by[j] * d_new - erased_by[j] * d_keep;
          erased[j] += weight * d_keep;
          added[j] += weight * d_new;
          lanes.store(d_kept + j * slots + n, d_after - d_after * weight * erased_by[j]);
        });
        lanes.store(d_weights + h * slots + n, d_weight);
      });
      repeat(block, [&](auto j) MEMNETS_INLINE {
        d_erase[h * word + w + j] = -sum_of<T>(erased[j]), d_add[h * word + w + j] = sum_of<T>(added[j]);
      });
    }
  });
}

// Grow `d_memory` by what reading gives it, sum_h w_h(n) d_read_h.
template <class T>
inline void read_backward(T* MEMNETS_RESTRICT d_memory, const T* weights, const T* d_reads, const MemorySizes& sizes) {
  for (int64_t h = 0; h < sizes.read_heads; h++)
    for (int64_t w = 0; w < sizes.word; w++)
      add_scaled(d_memory + w * sizes.slots, weights + h * sizes.slots, d_reads[h * sizes.word + w], sizes.slots);
}

// Grow `d_memory` and the keys' gradients by what similarity gives them. `keys` and `d_keys`: a head's, `stride` apart;
// `d_dots` [heads slots] and `d_norms` [slots] come from `address_backward`.
template <class T>
inline void similarity_backward(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT d_memory, const T* keys, T* d_keys,
                                int64_t stride, const T* d_dots, const T* d_norms, const MemorySizes& sizes) {
  const int64_t slots = sizes.slots;
  for (int64_t h = 0; h < sizes.read_heads + sizes.write_heads; h++)
    each_block(sizes.word, [&](auto block, int64_t w) MEMNETS_INLINE {
      const T *key = keys + h * stride + w, *d_dot = d_dots + h * slots;
      Vector<T> sums[block] = {};
      each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
        const Vector<T> change = lanes.load(d_dot + n), norm = h ? Vector<T>{} : lanes.load(d_norms + n);
        repeat(block, [&](auto j) MEMNETS_INLINE {
          const Vector<T> row = lanes.load(memory + (w + j) * slots + n);
          T* d_row = d_memory + (w + j) * slots + n;
          lanes.store(d_row, lanes.load(d_row) + key[j] * change - norm * row);
          sums[j] += change * row;
        });
      });
      repeat(block, [&](auto j) MEMNETS_INLINE { d_keys[h * stride + w + j] += sum_of<T>(sums[j]); });
    });
}

// The usual heads, one that reads and one that writes, both with keys, take fewer passes. One for what reading and
// writing are given, by `write_backward` and (added to `d_read_weights`) the read; and for the slots' squared norms.
template <class T>
inline void use_backward(const T* MEMNETS_RESTRICT memory, const T* MEMNETS_RESTRICT d_next,
                         const T* MEMNETS_RESTRICT write_weights, const T* d_read, const T* erase, const T* add,
                         T* MEMNETS_RESTRICT d_read_weights, T* MEMNETS_RESTRICT d_write_weights,
                         T* MEMNETS_RESTRICT squares, T* MEMNETS_RESTRICT d_erase, T* MEMNETS_RESTRICT d_add,
                         const MemorySizes& sizes) {
  const int64_t slots = sizes.slots;
  std::fill_n(squares, slots, T(0));
  each_block<4>(sizes.word, [&](auto block, int64_t w) MEMNETS_INLINE {
    Vector<T> erased[block] = {}, added[block] = {};
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> weight = lanes.load(write_weights + n);
      Vector<T> d_reading = lanes.load(d_read_weights + n), d_writing = lanes.load(d_write_weights + n);
      Vector<T> square = lanes.load(squares + n);
      repeat(block, [&](auto j) MEMNETS_INLINE {
        const Vector<T> row = lanes.load(memory + (w + j) * slots + n);
        const Vector<T> d_row = lanes.load(d_next + (w + j) * slots + n);
        const Vector<T> d_keep = d_row * row;
        d_reading += d_read[w + j] * row;
        d_writing += add[w + j] * d_row - erase[w + j] * d_keep;
        square += row * row;
        erased[j] += weight * d_keep;
        added[j] += weight * d_row;
      });
      lanes.store(d_read_weights + n, d_reading);
      lanes.store(d_write_weights + n, d_writing);
      lanes.store(squares + n, square);
    });
    repeat(block, [&](auto j) MEMNETS_INLINE { d_erase[w + j] = -sum_of<T>(erased[j]), d_add[w + j] = sum_of<T>(added[j]); });
  });
}

// And one for what `write_backward` leaves of the memory's gradient, `read_backward` and `similarity_backward`.
template <class T>
inline void memory_backward(const T* MEMNETS_RESTRICT memory, T* MEMNETS_RESTRICT d_memory, const T* read_weights,
                            const T* write_weights, const T* d_read, const T* erase, const T* keys, T* d_keys,
                            int64_t stride, const T* d_dots, const T* d_norms, const MemorySizes& sizes) {
  const int64_t slots = sizes.slots;
  each_block<4>(sizes.word, [&](auto block, int64_t w) MEMNETS_INLINE {
    Vector<T> read_sums[block] = {}, write_sums[block] = {};
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> reading = lanes.load(read_weights + n), writing = lanes.load(write_weights + n);
      const Vector<T> read_change = lanes.load(d_dots + n), write_change = lanes.load(d_dots + slots + n);
      const Vector<T> norm = lanes.load(d_norms + n);
      repeat(block, [&](auto j) MEMNETS_INLINE {
        const Vector<T> row = lanes.load(memory + (w + j) * slots + n);
        T* d_row = d_memory + (w + j) * slots + n;
        lanes.store(d_row, lanes.load(d_row) * (1 - erase[w + j] * writing) + d_read[w + j] * reading +
                               keys[w + j] * read_change + keys[stride + w + j] * write_change - norm * row);
        read_sums[j] += read_change * row;
        write_sums[j] += write_change * row;
      });
    });
    repeat(block, [&](auto j) MEMNETS_INLINE {
      d_keys[w + j] += sum_of<T>(read_sums[j]);
      d_keys[stride + w + j] += sum_of<T>(write_sums[j]);
    });
  });
}

}  // namespace memnets
