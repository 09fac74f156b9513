// In which order a DNC's slots were written (Graves et al. 2016, Methods, temporal memory linkage).
//
// Links have as many numbers as there are pairs of slots, so that a step takes the time of going over them: forward and
// backward it does so once, a few rows at a time, which stay in the cache for heads beyond the first few.
#pragma once

#include "simd.h"

namespace memnets {

constexpr int LINK_ROWS = 4;

// body(group, h) for the heads 0 to count - 1 in groups of at most MOST, whose size is a constant to the compiler.
template <int MOST, class Body>
inline MEMNETS_INLINE void each_head(int64_t count, const Body& body) {
  int64_t h = 0;
  for (; h + MOST <= count; h += MOST) body(std::integral_constant<int, MOST>{}, h);
  if constexpr (MOST > 1)
    each_head<MOST / 2>(count - h, [&](auto group, int64_t rest) MEMNETS_INLINE { body(group, h + rest); });
}

// body(rows, i) for blocks of rows, likewise.
template <class Body>
inline MEMNETS_INLINE void each_row_block(int64_t slots, const Body& body) {
  int64_t i = 0;
  for (; i + LINK_ROWS <= slots; i += LINK_ROWS) body(std::integral_constant<int, LINK_ROWS>{}, i);
  for (; i < slots; i++) body(std::integral_constant<int, 1>{}, i);
}

// L'(i, j) = (1 - w(i) - w(j)) L(i, j) + w(i) p(j), p being the precedence before the write; see `off_diagonal`.
template <class T>
inline Vector<T> linked(Vector<T> link, T after, Vector<T> before, Vector<T> precedence) {
  return (1 - after - before) * link + after * precedence;
}

// Row i of a matrix from column j on, 0 at its diagonal.
template <class T>
inline Vector<T> off_diagonal(Vector<T> row, int64_t i, int64_t j) {
  if (i >= j && i < j + WIDTH<T>) row[i - j] = T(0);
  return row;
}

// Does a block of rows from i on have its diagonal at the vector of columns from j on?
template <class T, int ROWS>
inline bool has_diagonal(int64_t i, int64_t j) {
  return j < i + ROWS && j + WIDTH<T> > i;
}

// Row i of the links after a write.
template <class T>
inline void link_row(const T* MEMNETS_RESTRICT row, T* MEMNETS_RESTRICT next, const T* MEMNETS_RESTRICT write,
                     const T* MEMNETS_RESTRICT precedence, int64_t i, int64_t slots) {
  each<T>(slots, [&](int64_t j, auto lanes) MEMNETS_INLINE {
    lanes.store(next + j, linked<T>(lanes.load(row + j), write[i], lanes.load(write + j), lanes.load(precedence + j)));
  });
  next[i] = T(0);
}

// Links before a write become those after it, and what heads that read at `reads` [heads slots] find along them:
// forward(i) = sum_j L'(i, j) read(j), backward(i) = sum_j L'(j, i) read(j).
template <class T>
inline void follow_links(T* link, const T* write, const T* precedence, const T* reads, T* forward,
                         T* backward, int64_t heads, int64_t slots) {
  std::fill_n(backward, heads * slots, T(0));
  const auto rows = [&](auto count, int64_t i, auto group, int64_t head, auto first) MEMNETS_INLINE {
    constexpr int ROWS = count, HEADS = group;
    const T* reading = reads + head * slots;
    T *ahead = forward + head * slots, *back = backward + head * slots;
    Vector<T> sums[ROWS][HEADS] = {};
    each<T>(slots, [&](int64_t j, auto lanes) MEMNETS_INLINE {
      const Vector<T> before = lanes.load(write + j), last = lanes.load(precedence + j);
      Vector<T> row[ROWS], found[HEADS], read[HEADS];
      repeat(count, [&](auto r) MEMNETS_INLINE {
        const int64_t at = (i + r) * slots + j;
        row[r] = lanes.load(link + at);
        if (first) row[r] = linked<T>(row[r], write[i + r], before, last);
      });
      if (first && has_diagonal<T, ROWS>(i, j))
        for (int r = 0; r < ROWS; r++) row[r] = off_diagonal<T>(row[r], i + r, j);
      repeat(group, [&](auto h) MEMNETS_INLINE {
        found[h] = lanes.load(back + h * slots + j), read[h] = lanes.load(reading + h * slots + j);
      });
      repeat(count, [&](auto r) MEMNETS_INLINE {
        if (first) lanes.store(link + (i + r) * slots + j, row[r]);
        repeat(group, [&](auto h) MEMNETS_INLINE {
          sums[r][h] += row[r] * read[h];
          found[h] += row[r] * reading[h * slots + i + r];
        });
      });
      repeat(group, [&](auto h) MEMNETS_INLINE { lanes.store(back + h * slots + j, found[h]); });
    });
    repeat(count, [&](auto r) MEMNETS_INLINE {
      repeat(group, [&](auto h) MEMNETS_INLINE { ahead[h * slots + i + r] = sum_of<T>(sums[r][h]); });
    });
  };
  each_row_block(slots, [&](auto count, int64_t i) MEMNETS_INLINE {
    each_head<4>(heads, [&](auto group, int64_t head) MEMNETS_INLINE {
      head ? rows(count, i, group, head, std::false_type{}) : rows(count, i, group, head, std::true_type{});
    });
  });
}

// Gradients of `follow_links`: `d_link` is that of the new links, then that of the old ones, `link`; those of the write
// weights, the precedence and the read weights are added to.
template <class T>
inline void follow_links_backward(const T* link, T* d_link, const T* write, const T* precedence, const T* reads,
                                  const T* d_forward, const T* d_backward, T* d_write, T* d_precedence, T* d_reads,
                                  int64_t heads, int64_t slots) {
  const auto rows = [&](auto count, int64_t i, auto group, int64_t head, auto last_heads) MEMNETS_INLINE {
    constexpr int ROWS = count, HEADS = group;
    const T *reading = reads + head * slots, *ahead = d_forward + head * slots, *back = d_backward + head * slots;
    T* d_reading = d_reads + head * slots;
    Vector<T> written[ROWS] = {}, sums[ROWS][HEADS] = {};
    each<T>(slots, [&](int64_t j, auto lanes) MEMNETS_INLINE {
      const Vector<T> before = lanes.load(write + j), last = lanes.load(precedence + j);
      Vector<T> old[ROWS], row[ROWS], change[ROWS];
      repeat(count, [&](auto r) MEMNETS_INLINE {
        const int64_t at = (i + r) * slots + j;
        old[r] = lanes.load(link + at), change[r] = lanes.load(d_link + at);
        row[r] = linked<T>(old[r], write[i + r], before, last);
        repeat(group, [&](auto h) MEMNETS_INLINE {
          change[r] += ahead[h * slots + i + r] * lanes.load(reading + h * slots + j) +
                       reading[h * slots + i + r] * lanes.load(back + h * slots + j);
        });
      });
      if (has_diagonal<T, ROWS>(i, j))
        for (int r = 0; r < ROWS; r++)
          row[r] = off_diagonal<T>(row[r], i + r, j), change[r] = off_diagonal<T>(change[r], i + r, j);
      repeat(group, [&](auto h) MEMNETS_INLINE {
        Vector<T> d_read = lanes.load(d_reading + h * slots + j);
        const Vector<T> d_back = lanes.load(back + h * slots + j);
        repeat(count, [&](auto r) MEMNETS_INLINE {
          d_read += ahead[h * slots + i + r] * row[r];
          sums[r][h] += d_back * row[r];
        });
        lanes.store(d_reading + h * slots + j, d_read);
      });
      if (last_heads) {
        Vector<T> d_before = lanes.load(d_write + j), d_last = lanes.load(d_precedence + j);
        repeat(count, [&](auto r) MEMNETS_INLINE {
          written[r] += change[r] * (last - old[r]);
          d_before -= change[r] * old[r];
          d_last += change[r] * write[i + r];
          change[r] *= 1 - write[i + r] - before;
        });
        lanes.store(d_write + j, d_before);
        lanes.store(d_precedence + j, d_last);
      }
      repeat(count, [&](auto r) MEMNETS_INLINE { lanes.store(d_link + (i + r) * slots + j, change[r]); });
    });
    repeat(count, [&](auto r) MEMNETS_INLINE {
      if (last_heads) d_write[i + r] += sum_of<T>(written[r]);
      repeat(group, [&](auto h) MEMNETS_INLINE { d_reading[h * slots + i + r] += sum_of<T>(sums[r][h]); });
    });
  };
  each_row_block(slots, [&](auto count, int64_t i) MEMNETS_INLINE {
    each_head<2>(heads, [&](auto group, int64_t head) MEMNETS_INLINE {
      head + group < heads ? rows(count, i, group, head, std::false_type{})
                           : rows(count, i, group, head, std::true_type{});
    });
  });
}

// p'(n) = (1 - sum_i w(i)) p(n) + w(n)
template <class T>
inline T sum(const T* MEMNETS_RESTRICT numbers, int64_t size) {
  Vector<T> total = {};
  each<T>(size, [&](int64_t n, auto lanes) MEMNETS_INLINE { total += lanes.load(numbers + n); });
  return sum_of<T>(total);
}
template <class T>
inline void precedence_after(const T* MEMNETS_RESTRICT precedence, const T* MEMNETS_RESTRICT write,
                             T* MEMNETS_RESTRICT next, int64_t slots) {
  const T rest = T(1) - sum(write, slots);
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    lanes.store(next + n, rest * lanes.load(precedence + n) + lanes.load(write + n));
  });
}

// Its gradient: `d_precedence` is that of the new one, then that of the old one; that of the write weights is added to.
template <class T>
inline void precedence_backward(const T* MEMNETS_RESTRICT precedence, const T* MEMNETS_RESTRICT write,
                                T* MEMNETS_RESTRICT d_precedence, T* MEMNETS_RESTRICT d_write, int64_t slots) {
  const T rest = T(1) - sum(write, slots), d_rest = dot<T>(d_precedence, precedence, slots);
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> change = lanes.load(d_precedence + n);
    lanes.store(d_write + n, lanes.load(d_write + n) + change - d_rest);
    lanes.store(d_precedence + n, rest * change);
  });
}

}  // namespace memnets
