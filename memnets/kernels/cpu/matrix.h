// Small matrix product for a recurrence: few rows (sequences), a weight matrix that stays in the cache.
#pragma once

#include <algorithm>

#include "simd.h"

namespace memnets {

// A tile of a product: so many rows, and at most so many vectors of columns, that its sums, a row of the right matrix and
// a broadcast fit the registers (28 of 32; 16 of 16). A single row takes more columns instead, as its sums would wait for
// one another if they were few.
#if defined(__AVX512F__)
constexpr int TILE_ROWS = 8;
#else
constexpr int TILE_ROWS = 4;
#endif
constexpr int TILE_COLUMNS = 3, ROW_COLUMNS = 8;

// A matrix whose rows start `stride` numbers apart.
template <class T>
struct Rows {
  T* start;
  int64_t stride;
  T* row(int64_t i) const { return start + i * stride; }
  T& at(int64_t i, int64_t j) const { return start[i * stride + j]; }
  Rows from(int64_t i, int64_t j) const { return {row(i) + j, stride}; }
};

// A matrix whose columns do: the transpose of one in rows.
template <class T>
struct Columns {
  T* start;
  int64_t stride;
  T& at(int64_t i, int64_t j) const { return start[i + j * stride]; }
  Columns from(int64_t i, int64_t j) const { return {&at(i, j), stride}; }
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

// c[ROWS, COLUMNS vectors] += a[ROWS, depth] b[depth, COLUMNS vectors], the sums in registers; of the last vector there
// may be only the first lanes. Each element's sum runs over `depth` in order whatever the tile, so a sequence's result
// depends neither on its neighbours nor on threads.
template <class T, int ROWS, int COLUMNS, class Left, class LastLanes>
inline void tile(Left a, Rows<const T> b, Rows<T> c, int64_t depth, LastLanes last) {
  constexpr std::integral_constant<int, ROWS> rows;
  constexpr std::integral_constant<int, COLUMNS - 1> whole;  // vectors of columns; then the last
  Vector<T> sums[ROWS][COLUMNS];
  repeat(rows, [&](auto r) MEMNETS_INLINE {
    repeat(whole, [&](auto j) MEMNETS_INLINE { sums[r][j] = load<T>(c.row(r) + j * WIDTH<T>); });
    sums[r][whole] = last.load(c.row(r) + whole * WIDTH<T>);
  });
  for (int64_t k = 0; k < depth; k++) {
    Vector<T> columns[COLUMNS];
    repeat(whole, [&](auto j) MEMNETS_INLINE { columns[j] = load<T>(b.row(k) + j * WIDTH<T>); });
    columns[whole] = last.load(b.row(k) + whole * WIDTH<T>);
    repeat(rows, [&](auto r) MEMNETS_INLINE {
      const T factor = a.at(r, k);
      for (int j = 0; j < COLUMNS; j++) sums[r][j] += factor * columns[j];
    });
  }
  repeat(rows, [&](auto r) MEMNETS_INLINE {
    repeat(whole, [&](auto j) MEMNETS_INLINE { store<T>(c.row(r) + j * WIDTH<T>, sums[r][j]); });
    last.store(c.row(r) + whole * WIDTH<T>, sums[r][whole]);
  });
}

// Tiles of so many rows, then those of half as many, down to one.
template <class T, int ROWS, int COLUMNS, class Left, class LastLanes>
inline void row_tiles(Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, LastLanes last) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS) tile<T, ROWS, COLUMNS>(a.from(r, 0), b, c.from(r, 0), depth, last);
  if constexpr (ROWS > 1)
    if (r < rows) row_tiles<T, ROWS / 2, COLUMNS>(a.from(r, 0), b, c.from(r, 0), rows - r, depth, last);
}

// body(count) with count, from 1 to MOST, as a constant.
template <int MOST, class Body>
inline void with_constant(int64_t count, const Body& body) {
  if constexpr (MOST > 1)
    if (count < MOST) return with_constant<MOST - 1>(count, body);
  body(std::integral_constant<int, MOST>{});
}

// Tiles of at most COLUMNS vectors, all of about the same size.
template <class T, int ROWS, int COLUMNS, class Left>
inline void tiles(Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, int64_t columns) {
  constexpr int64_t width = WIDTH<T>;
  const int64_t vectors = (columns + width - 1) / width, count = (vectors + COLUMNS - 1) / COLUMNS;
  for (int64_t i = 0; i < count; i++) {
    const int64_t first = i * vectors / count, end = (i + 1) * vectors / count;
    with_constant<COLUMNS>(end - first, [&](auto size) {
      const auto from = b.from(0, first * width);
      const auto into = c.from(0, first * width);
      if (end * width <= columns)
        row_tiles<T, ROWS, size>(a, from, into, rows, depth, AllLanes<T>{});
      else
        row_tiles<T, ROWS, size>(a, from, into, rows, depth, FirstLanes<T>{columns - (end - 1) * width});
    });
  }
}

// c[rows, columns] += a[rows, depth] b[depth, columns]; c must not overlap a or b.
template <class T, class Left>
inline void multiply_add(Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, int64_t columns) {
  if (rows == 1)
    tiles<T, 1, ROW_COLUMNS>(a, b, c, rows, depth, columns);
  else
    tiles<T, TILE_ROWS, TILE_COLUMNS>(a, b, c, rows, depth, columns);
}
template <class T>
inline void multiply_add(Rows<const T> a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, int64_t columns) {
  multiply_add<T, Rows<const T>>(a, b, c, rows, depth, columns);
}

}  // namespace memnets
