// Which slots a DNC may write to (Graves et al. 2016, Methods, dynamic memory allocation).
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "simd.h"

namespace memnets {

// How much of each slot the read heads do not free: prod_h (1 - free_h w_h(n)), over all heads but `without` (-1: all).
template <class T, class Lanes>
inline Vector<T> retained(const T* free_gates, const T* weights, int64_t heads, int64_t slots, int64_t n, Lanes lanes,
                          int64_t without = -1) {
  Vector<T> product = spread(T(1));
  for (int64_t h = 0; h < heads; h++)
    if (h != without) product *= 1 - free_gates[h] * lanes.load(weights + h * slots + n);
  return product;
}

// `weights`: the step's before, [heads slots].
template <class T>
inline void retention(const T* free_gates, const T* weights, T* MEMNETS_RESTRICT result, int64_t heads, int64_t slots) {
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    lanes.store(result + n, retained(free_gates, weights, heads, slots, n, lanes));
  });
}

// Its gradient: that of the weights is added to, that of the free gates overwritten.
template <class T>
inline void retention_backward(const T* free_gates, const T* weights, const T* MEMNETS_RESTRICT d_retention,
                               T* d_free_gates, T* d_weights, int64_t heads, int64_t slots) {
  for (int64_t h = 0; h < heads; h++) {
    const T* weight = weights + h * slots;
    T* d_weight = d_weights + h * slots;
    Vector<T> sum = {};
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> change = lanes.load(d_retention + n) * retained(free_gates, weights, heads, slots, n, lanes, h);
      lanes.store(d_weight + n, lanes.load(d_weight + n) - free_gates[h] * change);
      sum += change * lanes.load(weight + n);
    });
    d_free_gates[h] = -sum_of<T>(sum);
  }
}

// usage'(n) = (usage(n) + write(n) - usage(n) write(n)) retention(n), with the write weights of the step before.
template <class T>
inline void usage_after(const T* MEMNETS_RESTRICT usage, const T* MEMNETS_RESTRICT write,
                        const T* MEMNETS_RESTRICT retention, T* MEMNETS_RESTRICT next, int64_t slots) {
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> used = lanes.load(usage + n);
    lanes.store(next + n, (used + (1 - used) * lanes.load(write + n)) * lanes.load(retention + n));
  });
}

// Its gradient: `d_usage` is that of the new usage, then that of the old one; that of the retention is added to.
template <class T>
inline void usage_backward(const T* MEMNETS_RESTRICT usage, const T* MEMNETS_RESTRICT write,
                           const T* MEMNETS_RESTRICT retention, T* MEMNETS_RESTRICT d_usage,
                           T* MEMNETS_RESTRICT d_write, T* MEMNETS_RESTRICT d_retention, int64_t slots) {
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> used = lanes.load(usage + n), written = lanes.load(write + n), change = lanes.load(d_usage + n);
    const Vector<T> kept_change = change * lanes.load(retention + n);
    lanes.store(d_retention + n, lanes.load(d_retention + n) + change * (used + (1 - used) * written));
    lanes.store(d_write + n, kept_change * (1 - used));
    lanes.store(d_usage + n, kept_change * (1 - written));
  });
}

// Slots by their usage, of equal ones the lower first: sorted by one byte after the other, the lowest first.
template <class T>
struct Ascending {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  struct Slot {
    Bits bits;
    int32_t index;
  };
  explicit Ascending(int64_t slots) : sorted(slots), other(slots) {}
  int64_t operator[](int64_t place) const { return sorted[place].index; }

  void sort(const T* numbers) {
    int32_t starts[sizeof(T)][256] = {};
    for (size_t i = 0; i < sorted.size(); i++) {
      sorted[i] = {bits_of(numbers[i]), int32_t(i)};
      for (size_t byte = 0; byte < sizeof(T); byte++) starts[byte][sorted[i].bits >> 8 * byte & 255]++;
    }
    for (size_t byte = 0; byte < sizeof(T); byte++) {
      std::exclusive_scan(starts[byte], starts[byte] + 256, starts[byte], 0);
      for (const Slot& slot : sorted) other[starts[byte][slot.bits >> 8 * byte & 255]++] = slot;
      sorted.swap(other);
    }
  }
  // A number's bits, in whose order as an integer the numbers are.
  static Bits bits_of(T number) {
    constexpr Bits SIGN = Bits(1) << (8 * sizeof(T) - 1);
    Bits bits;
    std::memcpy(&bits, &number, sizeof bits);
    if (bits == SIGN) return SIGN;  // -0 is 0
    return bits & SIGN ? ~bits : bits | SIGN;
  }
  std::vector<Slot> sorted, other;
};

// a(order(j)) = (1 - usage(order(j))) prod_{i<j} usage(order(i)); `passed_on` [slots] receives the products, in order.
template <class T>
inline void allocate(const T* MEMNETS_RESTRICT usage, T* MEMNETS_RESTRICT allocation, T* MEMNETS_RESTRICT passed_on,
                     Ascending<T>& order, int64_t slots) {
  order.sort(usage);
  std::fill_n(allocation, slots, T(0));
  std::fill_n(passed_on, slots, T(0));
  T product = 1;
  for (int64_t j = 0; j < slots && product != 0; j++) {  // it is soon 0, at the first slot that isn't in use
    const T used = usage[order[j]];
    passed_on[j] = product;
    allocation[order[j]] = (1 - used) * product;
    product *= used;
  }
}

// Grow `d_usage` by what the allocation gives it, for the order and the products that `allocate` left.
template <class T>
inline void allocate_backward(const T* MEMNETS_RESTRICT usage, const T* MEMNETS_RESTRICT d_allocation,
                              const T* MEMNETS_RESTRICT passed_on, T* MEMNETS_RESTRICT d_usage,
                              const Ascending<T>& order, int64_t slots) {
  T d_product = 0;  // of the product up to this slot and with it
  for (int64_t j = slots - 1; j >= 0; j--) {
    const T used = usage[order[j]], change = d_allocation[order[j]];
    d_usage[order[j]] += passed_on[j] * (d_product - change);
    d_product = (1 - used) * change + used * d_product;
  }
}

}  // namespace memnets
