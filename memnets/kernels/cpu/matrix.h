// Small matrix product for a recurrence: few rows (sequences), a weight matrix that stays in the cache.
#pragma once

#include <algorithm>

#include "simd.h"

namespace memnets {

// Columns, in vectors, of a tile of 6 rows: sums, a row of the matrix and a broadcast fit the registers (29 of 32; 15 of 16).
#if defined(__AVX512F__)
constexpr int TILE_COLUMNS = 4;
#else
constexpr int TILE_COLUMNS = 2;
#endif
constexpr int TILE_ROWS = 6;

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
  constexpr int64_t width = WIDTH<T>;
  Vector<T> sums[ROWS][COLUMNS];
  for (int r = 0; r < ROWS; r++)
    for (int j = 0; j < COLUMNS; j++) sums[r][j] = load<T>(c.row(r) + j * width);
  for (int64_t k = 0; k < depth; k++) {
    Vector<T> columns[COLUMNS];
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
  constexpr int64_t width = WIDTH<T>;
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
