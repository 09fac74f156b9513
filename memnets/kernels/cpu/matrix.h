// Small matrix product for a recurrence: few rows (sequences), a weight matrix that stays in the cache.
#pragma once

#include <algorithm>

#include "simd.h"

namespace memnets {

// A tile of a product: so many rows, and at most so many vectors of columns, that its sums, a row of the right matrix
// and a broadcast fit the registers (28 of 32; 16 of 16). A single row takes more columns instead, as its sums would
// wait for one another if they were few.
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

// into[columns, rows] = from[rows, columns] transposed, for these rows and columns.
template <class T>
inline void transpose_part(Rows<const T> from, Rows<T> into, int64_t row, int64_t end_row, int64_t column,
                           int64_t end_column) {
  for (int64_t j = column; j < end_column; j++)
    for (int64_t i = row; i < end_row; i++) into.at(j, i) = from.at(i, j);
}
// Four rows and columns at once, where the compiler has the built-in function (GCC from 12 on).
template <class T>
inline void transpose_four(Rows<const T> from, Rows<T> into) {
  transpose_part(from, into, 0, 4, 0, 4);
}
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
inline void transpose_four(Rows<const float> from, Rows<float> into) {
  using Four = VectorOf<float, 16>::type;
  const auto row = [&](int64_t i) { return *reinterpret_cast<const Four*>(from.row(i)); };
  const Four low = __builtin_shufflevector(row(0), row(1), 0, 4, 1, 5);
  const Four high = __builtin_shufflevector(row(0), row(1), 2, 6, 3, 7);
  const Four next_low = __builtin_shufflevector(row(2), row(3), 0, 4, 1, 5);
  const Four next_high = __builtin_shufflevector(row(2), row(3), 2, 6, 3, 7);
  *reinterpret_cast<Four*>(into.row(0)) = __builtin_shufflevector(low, next_low, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(into.row(1)) = __builtin_shufflevector(low, next_low, 2, 3, 6, 7);
  *reinterpret_cast<Four*>(into.row(2)) = __builtin_shufflevector(high, next_high, 0, 1, 4, 5);
  *reinterpret_cast<Four*>(into.row(3)) = __builtin_shufflevector(high, next_high, 2, 3, 6, 7);
}
#endif
#endif

// into[columns, rows] = from[rows, columns] transposed, in blocks whose lines stay in the cache.
template <class T>
inline void transpose(Rows<const T> from, Rows<T> into, int64_t rows, int64_t columns) {
  constexpr int64_t block = 16;
  const int64_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int64_t j = 0; j < whole_columns; j += block)
    for (int64_t i = 0; i < whole_rows; i += block)
      for (int64_t column = j; column < std::min(j + block, whole_columns); column += 4)
        for (int64_t row = i; row < std::min(i + block, whole_rows); row += 4)
          transpose_four(from.from(row, column), into.from(column, row));
  transpose_part(from, into, 0, rows, whole_columns, columns);
  transpose_part(from, into, whole_rows, rows, 0, whole_columns);
}

// c[ROWS, COLUMNS vectors] = start + a[ROWS, depth] b[depth, COLUMNS vectors], the sums in registers; of the last
// vector there may be only the first lanes; `start` may be c. Each element's sum runs over `depth` in order whatever the
// tile, so a sequence's result depends neither on its neighbours nor on threads.
template <class T, int ROWS, int COLUMNS, class Left, class LastLanes>
inline void tile(Rows<const T> start, Left a, Rows<const T> b, Rows<T> c, int64_t depth, LastLanes last) {
  constexpr std::integral_constant<int, ROWS> rows;
  constexpr std::integral_constant<int, COLUMNS - 1> whole;  // vectors of columns; then the last
  Vector<T> sums[ROWS][COLUMNS];
  repeat(rows, [&](auto r) MEMNETS_INLINE {
    repeat(whole, [&](auto j) MEMNETS_INLINE { sums[r][j] = load<T>(start.row(r) + j * WIDTH<T>); });
    sums[r][whole] = last.load(start.row(r) + whole * WIDTH<T>);
  });
  for (int64_t k = 0; k < depth; k++) {
    Vector<T> columns[COLUMNS];
    repeat(whole, [&](auto j) MEMNETS_INLINE { columns[j] = load<T>(b.row(k) + j * WIDTH<T>); });
    columns[whole] = last.load(b.row(k) + whole * WIDTH<T>);
    if constexpr (ROWS > 1)
      for (auto& column : columns) column = in_register(column);
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
inline void row_tiles(Rows<const T> start, Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth,
                      LastLanes last) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS)
    tile<T, ROWS, COLUMNS>(start.from(r, 0), a.from(r, 0), b, c.from(r, 0), depth, last);
  if constexpr (ROWS > 1)
    if (r < rows)
      row_tiles<T, ROWS / 2, COLUMNS>(start.from(r, 0), a.from(r, 0), b, c.from(r, 0), rows - r, depth, last);
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
inline void tiles(Rows<const T> start, Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth,
                  int64_t columns) {
  constexpr int64_t width = WIDTH<T>;
  const int64_t vectors = (columns + width - 1) / width, count = (vectors + COLUMNS - 1) / COLUMNS;
  for (int64_t i = 0; i < count; i++) {
    const int64_t first = i * vectors / count, end = (i + 1) * vectors / count, column = first * width;
    with_constant<COLUMNS>(end - first, [&](auto size) {
      const auto run = [&](auto last) {
        row_tiles<T, ROWS, size>(start.from(0, column), a, b.from(0, column), c.from(0, column), rows, depth, last);
      };
      end * width <= columns ? run(AllLanes<T>{}) : run(FirstLanes<T>{columns - (end - 1) * width});
    });
  }
}

// c[rows, columns] = start + a[rows, depth] b[depth, columns]; c must not overlap a or b, but may be `start`, whose rows
// may all be one (of stride 0).
template <class T, class Left>
inline void multiply(Rows<const T> start, Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth,
                     int64_t columns) {
  if (rows == 1)
    tiles<T, 1, ROW_COLUMNS>(start, a, b, c, rows, depth, columns);
  else
    tiles<T, TILE_ROWS, TILE_COLUMNS>(start, a, b, c, rows, depth, columns);
}
template <class T, class Left>
inline void multiply_add(Left a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, int64_t columns) {
  multiply<T>(Rows<const T>{c.start, c.stride}, a, b, c, rows, depth, columns);
}
template <class T>
inline void multiply_add(Rows<const T> a, Rows<const T> b, Rows<T> c, int64_t rows, int64_t depth, int64_t columns) {
  multiply_add<T, Rows<const T>>(a, b, c, rows, depth, columns);
}

}  // namespace memnets
