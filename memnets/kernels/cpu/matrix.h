// Small matrix product for a recurrence: few rows (sequences), a weight matrix that stays in the cache.
#pragma once

#include <cstdint>

#include "vector_math.h"

namespace memnets {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
constexpr int TILE_COLUMNS = 4;  // 6 x 4 accumulators, 4 columns of the matrix and a broadcast: 29 of 32 registers
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
constexpr int TILE_COLUMNS = 2;  // 15 of 16 registers
#else
constexpr int VECTOR_BYTES = 16;
constexpr int TILE_COLUMNS = 2;
#endif
constexpr int TILE_ROWS = 6;

template <class T, int BYTES = VECTOR_BYTES>
struct Vector {
  static constexpr int64_t width = BYTES / sizeof(T);
  typedef T type __attribute__((vector_size(BYTES), aligned(alignof(T)), may_alias));
};

template <class T>
inline typename Vector<T>::type load(const T* from) {
  return *reinterpret_cast<const typename Vector<T>::type*>(from);
}
template <class T>
inline void store(T* into, typename Vector<T>::type value) {
  *reinterpret_cast<typename Vector<T>::type*>(into) = value;
}

// The next multiple of a vector's width: the row length of matrices packed for `multiply_add`.
template <class T>
inline int64_t padded(int64_t size) {
  return (size + Vector<T>::width - 1) / Vector<T>::width * Vector<T>::width;
}

// The sum of a vector's numbers, by halves. (A compiler that may not reorder sums adds them one by one.)
template <class T, int BYTES = VECTOR_BYTES>
inline T sum_of(typename Vector<T, BYTES>::type vector) {
  if constexpr (BYTES == sizeof(T)) {
    return vector[0];
  } else {
    using half = typename Vector<T, BYTES / 2>::type;
    half halves[2];
    std::memcpy(halves, &vector, BYTES);
    return sum_of<T, BYTES / 2>(halves[0] + halves[1]);
  }
}

template <class T>
inline T dot(const T* MEMNETS_RESTRICT a, const T* MEMNETS_RESTRICT b, int64_t size) {
  using vector = typename Vector<T>::type;
  constexpr int64_t width = Vector<T>::width;
  vector sums[2] = {};
  int64_t i = 0;
  for (; i + 2 * width <= size; i += 2 * width)
    for (int j = 0; j < 2; j++) sums[j] += load(a + i + j * width) * load(b + i + j * width);
  if (i + width <= size) {
    sums[0] += load(a + i) * load(b + i);
    i += width;
  }
  T sum = sum_of<T>(sums[0] + sums[1]);
  for (; i < size; i++) sum += a[i] * b[i];
  return sum;
}

template <class T>
inline T sum(const T* MEMNETS_RESTRICT a, int64_t size) {
  using vector = typename Vector<T>::type;
  vector sums = {};
  int64_t i = 0;
  for (; i + Vector<T>::width <= size; i += Vector<T>::width) sums += load(a + i);
  T total = sum_of<T>(sums);
  for (; i < size; i++) total += a[i];
  return total;
}

// A matrix whose rows start `stride` numbers apart.
template <class T>
struct Rows {
  T* start;
  int64_t stride;
  T* row(int64_t i) const { return start + i * stride; }
};

// into[columns, rows] = from[rows, columns] transposed, in blocks whose lines stay in the cache.
template <class T>
inline void transpose(Rows<const T> from, Rows<T> into, int64_t rows, int64_t columns) {
  constexpr int64_t block = 16;
  for (int64_t j = 0; j < columns; j += block)
    for (int64_t i = 0; i < rows; i += block)
      for (int64_t column = j; column < std::min(j + block, columns); column++)
        for (int64_t row = i; row < std::min(i + block, rows); row++) into.row(column)[row] = from.row(row)[column];
}

// c[ROWS, COLUMNS vectors] += a[ROWS, depth] b[depth, COLUMNS vectors], the sums in registers. Each element's sum runs
// over `depth` in order whatever the tile, so a sequence's result depends neither on its neighbours nor on threads.
template <class T, int ROWS, int COLUMNS>
inline void tile(Rows<const T> a, Rows<const T> b, Rows<T> c, int64_t depth) {
  using vector = typename Vector<T>::type;
  constexpr int64_t width = Vector<T>::width;
  vector sums[ROWS][COLUMNS];
  for (int r = 0; r < ROWS; r++)
    for (int j = 0; j < COLUMNS; j++) sums[r][j] = load<T>(c.row(r) + j * width);
  for (int64_t k = 0; k < depth; k++) {
    vector columns[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) columns[j] = load<T>(b.row(k) + j * width);
    for (int r = 0; r < ROWS; r++) {
      const T factor = a.row(r)[k];
      for (int j = 0; j < COLUMNS; j++) sums[r][j] += factor * columns[j];
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int j = 0; j < COLUMNS; j++) store<T>(c.row(r) + j * width, sums[r][j]);
}

template <class T, int COLUMNS>
inline void column_block(Rows<const T> a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth) {
  int64_t r = 0;
  const auto from = [&](int64_t row) { return Rows<const T>{a.row(row), a.stride}; };
  const auto into = [&](int64_t row) { return Rows<T>{c.row(row), c.stride}; };
  for (; r + TILE_ROWS <= rows; r += TILE_ROWS) tile<T, TILE_ROWS, COLUMNS>(from(r), b, into(r), depth);
  for (; r + 4 <= rows; r += 4) tile<T, 4, COLUMNS>(from(r), b, into(r), depth);
  for (; r + 2 <= rows; r += 2) tile<T, 2, COLUMNS>(from(r), b, into(r), depth);
  for (; r < rows; r++) tile<T, 1, COLUMNS>(from(r), b, into(r), depth);
}

// c[rows, columns] += a[rows, depth] b[depth, columns]; c must not overlap a or b.
template <class T>
inline void multiply_add(Rows<const T> a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, int64_t columns) {
  constexpr int64_t width = Vector<T>::width;
  int64_t j = 0;
  const auto from = [&](int64_t column) { return Rows<const T>{b.start + column, b.stride}; };
  const auto into = [&](int64_t column) { return Rows<T>{c.start + column, c.stride}; };
  if (rows == 1)  // more columns instead, as sums in few registers would wait for one another
    for (; j + 2 * TILE_COLUMNS * width <= columns; j += 2 * TILE_COLUMNS * width)
      tile<T, 1, 2 * TILE_COLUMNS>(a, from(j), into(j), depth);
  for (; j + TILE_COLUMNS * width <= columns; j += TILE_COLUMNS * width)
    column_block<T, TILE_COLUMNS>(a, from(j), into(j), rows, depth);
  for (; j + width <= columns; j += width) column_block<T, 1>(a, from(j), into(j), rows, depth);
  if (j == columns) return;
  for (int64_t r = 0; r < rows; r++)  // what is left of an unpadded row
    for (int64_t k = 0; k < depth; k++) add_scaled(c.row(r) + j, b.row(k) + j, a.row(r)[k], columns - j);
}

}  // namespace memnets
