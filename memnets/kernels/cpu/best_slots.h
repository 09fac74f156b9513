// Which of many scores reach a bound, and the best slots of a query so far.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "simd.h"

namespace memnets {

// Bit i tells whether a[i] may be `bound` or more; with NaN on either side, it may.
template <class S>
inline uint64_t lanes_reaching(const S* a, S bound) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, int32_t>)
    return _mm512_cmpge_epi32_mask(_mm512_loadu_si512(a), _mm512_set1_epi32(bound));
  else if constexpr (std::is_same_v<S, float>)
    return _mm512_cmp_ps_mask(load<S>(a), spread(bound), _CMP_NLT_UQ);
  else
    return _mm512_cmp_pd_mask(load<S>(a), spread(bound), _CMP_NLT_UQ);
#else
  uint64_t found = 0;
  for (int64_t i = 0; i < WIDTH<S>; i++) found |= uint64_t(!(a[i] < bound)) << i;
  return found;
#endif
}
// The same of the first 64, or of `count` if that is less; whole vectors of them are read.
template <class S>
inline uint64_t may_reach(const S* a, S bound, int64_t count) {
  uint64_t found = 0;
  if (count >= 64) {
    repeat(std::integral_constant<int, 64 / WIDTH<S>>{}, [&](auto i) MEMNETS_INLINE {
      found |= lanes_reaching(a + i * WIDTH<S>, bound) << (i * WIDTH<S>);
    });
    return found;
  }
  for (int64_t i = 0; i < count; i += WIDTH<S>) found |= lanes_reaching(a + i, bound) << i;
  return found & ((uint64_t(1) << count) - 1);
}

template <class S>
inline int64_t count_reaching(const S* a, S bound, int64_t count) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 64) found += __builtin_popcountll(may_reach(a + i, bound, count - i));
  return found;
}

template <class S>
inline std::pair<S, S> least_and_most(const S* a, int64_t count) {
  S least = a[0], most = a[0];
  int64_t i = 0;
  if (count >= WIDTH<S>) {
    Vector<S> low = load<S>(a), high = low;
    for (; i + WIDTH<S> <= count; i += WIDTH<S>) {
      const Vector<S> next = load<S>(a + i);
      low = next < low ? next : low;
      high = larger(high, next);
    }
    least = folded<S, VECTOR_BYTES>(low, [](auto x, auto y) { return x < y ? x : y; });
    most = largest_of<S>(high);
  }
  for (; i < count; i++) least = std::min(least, a[i]), most = std::max(most, a[i]);
  return {least, most};
}

// A number that k or a few more of `a` reach; the lowest of all if it isn't found.
template <class S>
inline S reached_by(const S* a, int64_t count, int64_t k, S lowest) {
  if (count < k) return lowest;
  const auto [least, most] = least_and_most(a, count);
  double low = least, high = most;
  if (!(high - low < std::numeric_limits<double>::infinity())) return lowest;
  for (int i = 0; i < 16; i++) {
    const S middle = S(low + (high - low) / 2);
    const int64_t reaching = count_reaching(a, middle, count);
    (reaching >= k ? low : high) = middle;
    if (reaching >= k && reaching <= k + k / 4) break;
  }
  return S(low);
}

// scores[i] = dot(query, row places[i] of keys), four rows at once.
template <class T>
inline void dots(const T* query, const T* keys, const int32_t* places, int64_t count, int64_t word, T* scores) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const T* rows[4];
    Vector<T> sums[4] = {};
    for (int j = 0; j < 4; j++) rows[j] = keys + places[i + j] * word;
    each<T>(word, [&](int64_t w, auto lanes) MEMNETS_INLINE {
      const Vector<T> part = lanes.load(query + w);
      repeat(std::integral_constant<int, 4>{}, [&](auto j) MEMNETS_INLINE { sums[j] += part * lanes.load(rows[j] + w); });
    });
    for (int j = 0; j < 4; j++) scores[i + j] = sum_of<T>(sums[j]);
  }
  for (; i < count; i++) scores[i] = dot(query, keys + places[i] * word, word);
}

// The best slots of one query so far, and others that may be among them: of `room` >= 2 k. NaN comes first: as infinity.
template <class T>
struct Best {
  static constexpr T NONE = -std::numeric_limits<T>::infinity();

  // Take slots `first + places[i]`, each if its score is better than the least: later slots are higher.
  void put(const T* found, const int32_t* places, int64_t number, int64_t first, int64_t k) {
    for (int64_t i = 0; i < number;) {
      const int64_t end = std::min(number, i + 2 * k - count);
      T* MEMNETS_RESTRICT into = scores;
      int32_t* MEMNETS_RESTRICT where = slots;
      const T bar = least;
      int64_t at = count;
      for (; i < end; i++) {
        const T score = found[i] != found[i] ? -NONE : found[i];
        into[at] = score;
        where[at] = int32_t(first) + places[i];
        at += score > bar;
      }
      count = at;
      if (count == 2 * k) keep(k);
    }
  }

  // Forget slots that aren't among the k best: all such, or most of them.
  void keep(int64_t k) {
    if (count < k) return;
    least = std::max(least, reached_by(scores, count, k, NONE));
    full = true;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
      scores[kept] = scores[i];
      slots[kept] = slots[i];
      kept += scores[i] >= least;
    }
    count = kept;
    if (count > k + k / 2) keep_exactly(k);
  }
  void keep_exactly(int64_t k) {
    std::vector<std::pair<T, int32_t>> found(count);
    for (int64_t i = 0; i < count; i++) found[i] = {-scores[i], slots[i]};
    std::nth_element(found.begin(), found.begin() + (k - 1), found.end());
    for (int64_t i = 0; i < k; i++) std::tie(scores[i], slots[i]) = std::pair(-found[i].first, found[i].second);
    least = scores[k - 1];
    count = k;
  }

  // At which place slot i comes.
  int64_t place(int64_t i) const {
    const T score = scores[i];
    const int32_t slot = slots[i];
    int32_t before = 0;
    for (int64_t j = 0; j < count; j++) before += int(scores[j] > score) + (int(scores[j] == score) & int(slots[j] < slot));
    return before;
  }

  T* scores;
  int32_t* slots;
  int64_t count = 0;
  T least = NONE;
  bool full = false;
};

}  // namespace memnets
