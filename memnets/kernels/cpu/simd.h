// Vectors of numbers as compilers give them, and loops over arrays in steps of a vector.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define MEMNETS_RESTRICT __restrict__
#define MEMNETS_INLINE __attribute__((always_inline))  // lambdas: sums they keep stay in registers only if inlined

namespace memnets {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

template <class T, int BYTES = VECTOR_BYTES>
struct VectorOf {
  typedef T type __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int64_t WIDTH = VECTOR_BYTES / sizeof(T);

// The next multiple of a vector's width.
template <class T>
inline int64_t padded(int64_t size) {
  return (size + WIDTH<T> - 1) / WIDTH<T> * WIDTH<T>;
}

template <class T>
inline Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}
template <class T>
inline void store(T* into, Vector<T> value) {
  *reinterpret_cast<Vector<T>*>(into) = value;
}
template <class T>
inline Vector<T> spread(T value) {
  return Vector<T>{} + value;
}

// The vector, kept in a register: compilers would load one that is used several times anew for each use.
template <class V>
inline V in_register(V value) {
#if defined(__AVX512F__)
  asm("" : "+v"(value));
#elif defined(__SSE2__)
  asm("" : "+x"(value));
#elif defined(__aarch64__)
  asm("" : "+w"(value));
#endif
  return value;
}

template <class V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}

// Fold a vector by halves. (A compiler that may not reorder sums adds numbers one by one.)
template <class T, int BYTES, class Fold>
inline T folded(typename VectorOf<T, BYTES>::type vector, const Fold& fold) {
  if constexpr (BYTES == sizeof(T)) {
    return vector[0];
  } else {
    using half = typename VectorOf<T, BYTES / 2>::type;
    half halves[2];
    std::memcpy(halves, &vector, BYTES);
    return folded<T, BYTES / 2>(fold(halves[0], halves[1]), fold);
  }
}
template <class T>
inline T sum_of(Vector<T> vector) {
  return folded<T, VECTOR_BYTES>(vector, [](auto a, auto b) { return a + b; });
}
template <class T>
inline T largest_of(Vector<T> vector) {
  return folded<T, VECTOR_BYTES>(vector, [](auto a, auto b) { return larger(a, b); });
}

// The first `count` numbers of a vector, and 0 beyond; into the first `count` numbers of an array. By halves: a call of
// memcpy, for a size the compiler doesn't know, would cost more than the loop it ends.
template <class T, int BYTES>
inline typename VectorOf<T, BYTES>::type load_first(const T* from, int64_t count) {
  using V = typename VectorOf<T, BYTES>::type;
  if constexpr (BYTES == sizeof(T)) {
    return count > 0 ? V{} + *from : V{};
  } else {
    using Half = typename VectorOf<T, BYTES / 2>::type;
    constexpr int64_t half = BYTES / 2 / sizeof(T);
    Half halves[2] = {};
    if (count >= half) {
      std::memcpy(&halves[0], from, BYTES / 2);
      if (count > half) halves[1] = load_first<T, BYTES / 2>(from + half, count - half);
    } else {
      halves[0] = load_first<T, BYTES / 2>(from, count);
    }
    V value;
    std::memcpy(&value, halves, BYTES);
    return value;
  }
}
template <class T, int BYTES>
inline void store_first(T* into, typename VectorOf<T, BYTES>::type value, int64_t count) {
  if constexpr (BYTES == sizeof(T)) {
    if (count > 0) *into = value[0];
  } else {
    constexpr int64_t half = BYTES / 2 / sizeof(T);
    typename VectorOf<T, BYTES / 2>::type halves[2];
    std::memcpy(halves, &value, BYTES);
    if (count >= half) {
      std::memcpy(into, &halves[0], BYTES / 2);
      if (count > half) store_first<T, BYTES / 2>(into + half, halves[1], count - half);
    } else {
      store_first<T, BYTES / 2>(into, halves[0], count);
    }
  }
}

// Which lanes of a vector a loop is at: all of them, or the first `count`, where an array ends.
template <class T>
struct AllLanes {
  Vector<T> load(const T* from) const { return memnets::load<T>(from); }
  void store(T* into, Vector<T> value) const { memnets::store<T>(into, value); }
  Vector<T> otherwise(Vector<T> value, T) const { return value; }
};
template <class T>
struct FirstLanes {
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  int64_t count;

#if defined(__AVX512F__)
  Vector<T> load(const T* from) const {
    if constexpr (sizeof(T) == 4)
      return _mm512_maskz_loadu_ps(__mmask16((1 << count) - 1), from);
    else
      return _mm512_maskz_loadu_pd(__mmask8((1 << count) - 1), from);
  }
  void store(T* into, Vector<T> value) const {
    if constexpr (sizeof(T) == 4)
      _mm512_mask_storeu_ps(into, __mmask16((1 << count) - 1), value);
    else
      _mm512_mask_storeu_pd(into, __mmask8((1 << count) - 1), value);
  }
#else
#if defined(__AVX__)
  Vector<T> load(const T* from) const {
    if constexpr (sizeof(T) == 4)
      return _mm256_maskload_ps(from, (__m256i)counted());
    else
      return _mm256_maskload_pd(from, (__m256i)counted());
  }
#else
  Vector<T> load(const T* from) const { return load_first<T, VECTOR_BYTES>(from, count); }
#endif
  void store(T* into, Vector<T> value) const { store_first<T, VECTOR_BYTES>(into, value, count); }
#endif
  // The value, or `other` beyond the array's end, where loads find 0.
  Vector<T> otherwise(Vector<T> value, T other) const { return counted() ? value : spread(other); }
  // All bits of the first lanes.
  Vector<Index> counted() const {
    Vector<Index> lane;
    for (int i = 0; i < WIDTH<T>; i++) lane[i] = i;
    return lane < Index(count);
  }
};

// body(i, lanes) for the vectors of an array of `size` numbers.
template <class T, class Body>
inline MEMNETS_INLINE void each(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + WIDTH<T> <= size; i += WIDTH<T>) body(i, AllLanes<T>{});
  if (i < size) body(i, FirstLanes<T>{size - i});
}

// body(0), body(1) ... body(COUNT - 1), each spelt out.
template <int COUNT, class Body>
inline MEMNETS_INLINE void repeat(std::integral_constant<int, COUNT>, const Body& body) {
  [&]<int... INDEX>(std::integer_sequence<int, INDEX...>) MEMNETS_INLINE {
    (body(std::integral_constant<int, INDEX>{}), ...);
  }(std::make_integer_sequence<int, COUNT>{});
}

// body(block, i) for the numbers 0 to size - 1 in blocks of MOST, then 4, then 1, whose size is a constant to the compiler.
template <int MOST = 8, class Body>
inline MEMNETS_INLINE void each_block(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + MOST <= size; i += MOST) body(std::integral_constant<int, MOST>{}, i);
  if constexpr (MOST > 4)
    for (; i + 4 <= size; i += 4) body(std::integral_constant<int, 4>{}, i);
  for (; i < size; i++) body(std::integral_constant<int, 1>{}, i);
}

template <class T>
inline T dot(const T* MEMNETS_RESTRICT a, const T* MEMNETS_RESTRICT b, int64_t size) {
  Vector<T> sum = {};
  each<T>(size, [&](int64_t i, auto lanes) MEMNETS_INLINE { sum += lanes.load(a + i) * lanes.load(b + i); });
  return sum_of<T>(sum);
}

// y += factor * x
template <class T>
inline void add_scaled(T* MEMNETS_RESTRICT y, const T* MEMNETS_RESTRICT x, T factor, int64_t size) {
  each<T>(size, [&](int64_t i, auto lanes) MEMNETS_INLINE { lanes.store(y + i, lanes.load(y + i) + factor * lanes.load(x + i)); });
}

}  // namespace memnets
