// Weighted sums of rows that lie anywhere, and their gradients. Memory traffic is all it costs: every chosen row is
// asked for ahead of its use, and the gradient of all rows is written once, in sequence, past the caches.
#pragma once

#include <vector>

#include "simd.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace memnets {

constexpr int64_t AHEAD = 8;                   // choices
constexpr int64_t LARGE = int64_t(1) << 23;    // bytes that no cache keeps until they are needed
constexpr int64_t HUGE_PAGE = int64_t(1) << 21;

// Ask for pages of 2 MB in memory that nobody has touched yet: a page costs a fault, of 4 KB 512 times as many.
inline void take_huge_pages(void* start, int64_t bytes) {
#if defined(__linux__)
  const uintptr_t first = (uintptr_t(start) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  const uintptr_t end = (uintptr_t(start) + bytes) / HUGE_PAGE * HUGE_PAGE;
  if (bytes >= LARGE && end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// Store past the caches, into a place that is aligned to a vector.
template <class T>
inline void stream(T* into, Vector<T> value) {
#if defined(__AVX512F__)
  __m512i bits;
  std::memcpy(&bits, &value, sizeof bits);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(into), bits);
#else
  store(into, value);
#endif
}
inline void end_streams() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

template <class T>
inline MEMNETS_INLINE void fetch(const T* row, int64_t size) {
  for (int64_t i = 0; i < size; i += int64_t(64 / sizeof(T))) __builtin_prefetch(row + i);
}

// body(count, first, lanes) for a row's numbers, in blocks of so many vectors.
template <class T, class Body>
inline MEMNETS_INLINE void each_part(int64_t size, const Body& body) {
  each_block<16>(size / WIDTH<T>, [&](auto block, int64_t i) MEMNETS_INLINE { body(block, i * WIDTH<T>, AllLanes<T>{}); });
  const int64_t whole = size / WIDTH<T> * WIDTH<T>;
  if (whole < size) body(std::integral_constant<int, 1>{}, whole, FirstLanes<T>{size - whole});
}

// Rows of a matrix, and which of them are chosen with what weights: `per_sum` choices in turn make a sum.
template <class T>
struct Choices {
  const T* values;
  const T* weights;
  const int64_t* indices;
  int64_t count, per_sum, word;
};

// Σ_j weights(j) values(indices(j)), for these sums.
template <class T>
inline void sum_chosen(const Choices<T>& from, int64_t first, int64_t end, T* sums) {
  for (int64_t r = first; r < end; r++)
    each_part<T>(from.word, [&](auto block, int64_t at, auto lanes) MEMNETS_INLINE {
      Vector<T> sum[block];
      repeat(block, [&](auto i) MEMNETS_INLINE { sum[i] = Vector<T>{}; });
      for (int64_t j = r * from.per_sum; j < (r + 1) * from.per_sum; j++) {
        if (j + AHEAD < from.count) fetch(from.values + from.indices[j + AHEAD] * from.word + at, block * WIDTH<T>);
        const T* row = from.values + from.indices[j] * from.word + at;
        const T weight = from.weights[j];
        repeat(block, [&](auto i) MEMNETS_INLINE { sum[i] += weight * lanes.load(row + i * WIDTH<T>); });
      }
      repeat(block, [&](auto i) MEMNETS_INLINE { lanes.store(sums + r * from.word + at + i * WIDTH<T>, sum[i]); });
    });
}

// The choices in the order of their slots, those of a slot in their own.
struct BySlot {
  BySlot(const int64_t* indices, int64_t count, int64_t slots) : starts(slots + 2), choices(count) {
    for (int64_t i = 0; i < count; i++) starts[indices[i] + 2]++;
    for (int64_t slot = 2; slot < slots + 2; slot++) starts[slot] += starts[slot - 1];
    for (int64_t i = 0; i < count; i++) choices[starts[indices[i] + 1]++] = uint32_t(i);
  }
  // choices[starts[slot]] to choices[starts[slot + 1] - 1]
  std::vector<uint32_t> starts, choices;
};

// Gradients of values and weights, for these slots; nullptr for those that aren't wanted.
template <class T, bool VALUES, bool WEIGHTS>
class ChosenGradient {
 public:
  ChosenGradient(const Choices<T>& of, const BySlot& order, const T* d_sums, T* d_values, T* d_weights)
      : of_(of), order_(order), d_sums_(d_sums), d_values_(d_values), d_weights_(d_weights) {}

  void operator()(int64_t first, int64_t end, bool past_caches) const {
    for (int64_t slot = first; slot < end; slot++) {
      if (past_caches)
        slot_gradient(slot, [](auto, T* into, Vector<T> value) MEMNETS_INLINE { stream(into, value); });
      else
        slot_gradient(slot, [](auto lanes, T* into, Vector<T> value) MEMNETS_INLINE { lanes.store(into, value); });
    }
    if (past_caches) end_streams();
  }

 private:
  template <class Put>
  MEMNETS_INLINE void slot_gradient(int64_t slot, const Put& put) const {
    const int64_t from = order_.starts[slot], to = order_.starts[slot + 1];
    if (!VALUES && from == to) return;
    each_part<T>(of_.word, [&](auto block, int64_t at, auto lanes) MEMNETS_INLINE {
      Vector<T> sum[block];
      repeat(block, [&](auto i) MEMNETS_INLINE { sum[i] = Vector<T>{}; });
      for (int64_t e = from; e < to; e++) {
        const int64_t choice = order_.choices[e];
        const T* d_sum = d_sums_ + choice / of_.per_sum * of_.word + at;
        const T weight = of_.weights[choice];
        Vector<T> products[4] = {};
        repeat(block, [&](auto i) MEMNETS_INLINE {
          const Vector<T> d = lanes.load(d_sum + i * WIDTH<T>);
          if constexpr (VALUES) sum[i] += weight * d;
          if constexpr (WEIGHTS) products[i % 4] += d * lanes.load(of_.values + slot * of_.word + at + i * WIDTH<T>);
        });
        if constexpr (WEIGHTS) {
          const T dot = sum_of<T>((products[0] + products[1]) + (products[2] + products[3]));
          d_weights_[choice] = at ? d_weights_[choice] + dot : dot;
        }
      }
      if constexpr (VALUES)
        repeat(block, [&](auto i) MEMNETS_INLINE { put(lanes, d_values_ + slot * of_.word + at + i * WIDTH<T>, sum[i]); });
    });
  }

  Choices<T> of_;
  const BySlot& order_;
  const T* d_sums_;
  T *d_values_, *d_weights_;
};

}  // namespace memnets
