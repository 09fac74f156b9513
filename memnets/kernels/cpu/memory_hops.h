// Sentences as sums of rows of tables, and the gradients of those rows; the softmax. The hops are in hop_reader.h.
//
// All tables lie side by side: a row holds what every table says of a word (or of an age), so that one look at a word's
// id serves all of them.
#pragma once

#include <algorithm>
#include <vector>

#include "vector_math.h"

namespace memnets {

enum class Position { none, paper, centred };

struct HopsScheme {
  int64_t hops;
  bool adjacent;
  Position position;
  bool relu, attend_empty;
  double scale;
  int64_t most_words;  // of the longest sentence, for the centred position encoding

  int64_t story_tables() const { return adjacent ? hops + 1 : 2; }
  int64_t tables() const { return adjacent ? hops + 1 : 3; }
  int64_t question() const { return adjacent ? 0 : 2; }
  int64_t key(int64_t hop) const { return adjacent ? hop : 0; }
  int64_t value(int64_t hop) const { return adjacent ? hop + 1 : 1; }
};

// `ids` and `ages` count those that have a vector: without padding.
struct HopsSizes {
  int64_t batch, sentences, words, ids, ages, embedding;
};

// Where rows lie, in the tables and in their gradients: row 0, of padding, is 0; those of words and of ages follow.
template <class T>
struct RowLayout {
  RowLayout(const HopsSizes& sizes, const HopsScheme& scheme)
      : sizes(sizes), tables(scheme.tables()), stride(padded<T>(tables * sizes.embedding)) {}
  int64_t word(int64_t id) const { return id * stride; }
  int64_t age(int64_t age) const { return age == 0 ? 0 : (sizes.ids + std::min(age, sizes.ages)) * stride; }
  // With room behind the last row: a table's part of it is read in whole vectors.
  int64_t size() const { return (1 + sizes.ids + sizes.ages) * stride + padded<T>(sizes.embedding); }

  // Copy vectors [tables count embedding] into the rows from `first` on, or back.
  void pack(const T* vectors, int64_t count, int64_t num_tables, T* rows) const {
    each_vector(count, num_tables,
                [&](int64_t at, int64_t row) { std::copy_n(vectors + at, sizes.embedding, rows + row); });
  }
  void unpack(const T* rows, int64_t count, int64_t num_tables, T* vectors) const {
    each_vector(count, num_tables,
                [&](int64_t at, int64_t row) { std::copy_n(rows + row, sizes.embedding, vectors + at); });
  }

  HopsSizes sizes;
  int64_t tables, stride;

 private:
  template <class Body>
  void each_vector(int64_t count, int64_t num_tables, const Body& body) const {
    for (int64_t table = 0; table < num_tables; table++)
      for (int64_t i = 0; i < count; i++)
        body((table * count + i) * sizes.embedding, i * stride + table * sizes.embedding);
  }
};

// body(block, i) for the numbers 0 to size - 1 in blocks of 8, then all that are left in one.
template <class Body>
inline MEMNETS_INLINE void in_blocks(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) body(std::integral_constant<int, 8>{}, i);
  repeat(std::integral_constant<int, 7>{}, [&](auto less) MEMNETS_INLINE {
    if (size - i == less + 1) body(std::integral_constant<int, less + 1>{}, i);
  });
}

// The words of a sentence: where their rows lie, and what weighs them, l_kj = near_j - k/d slope_j (for a bag of words
// 1 and 0; the others in `Encoding`).
template <class T>
struct Sentence {
  explicit Sentence(int64_t words) : rows(words), near(words), slope(words) {}
  int64_t count = 0;
  std::vector<int64_t> rows;
  std::vector<T> near, slope;
};

template <class T>
class Encoding {
 public:
  Encoding(const HopsSizes& sizes, const HopsScheme& scheme)
      : layout(sizes, scheme), component(layout.stride + padded<T>(sizes.embedding)),
        near_((sizes.words + 1) * sizes.words, T(1)), slope_(near_.size(), T(0)) {
    const int64_t size = sizes.embedding, words = sizes.words;
    for (size_t i = 0; i < component.size(); i++) component[i] = T(int64_t(i) % size + 1) / T(size);
    for (int64_t length = 1; scheme.position != Position::none && length <= words; length++)
      for (int64_t j = 0; j < words; j++) {
        // Of the paper's section 4.1; or centred, 1 + 4 (k - (d + 1)/2) (j - (J + 1)/2) / (d J), J = most words + 1.
        const T places = T(scheme.most_words + 1);
        const T place = T(j + 1) / T(length), centred = (T(j + 1) - (places + 1) / 2) / places;
        const bool paper = scheme.position == Position::paper;
        near_[length * words + j] = 1 - (paper ? place : 2 * (T(size + 1) / T(size)) * centred);
        slope_[length * words + j] = paper ? 1 - 2 * place : -4 * centred;
      }
  }

  // The sentence of some ids; false if one of them is none.
  bool read(const int64_t* ids, Sentence<T>& into) const {
    const int64_t words = layout.sizes.words, stride = layout.stride;
    const uint64_t most = layout.sizes.ids;
    int64_t length = 0, count = 0;
    for (int64_t j = 0; j < words; j++) length += ids[j] != 0;
    const T *near_of = near_.data() + length * words, *slope_of = slope_.data() + length * words;
    int64_t* MEMNETS_RESTRICT rows = into.rows.data();
    T *MEMNETS_RESTRICT near = into.near.data(), *MEMNETS_RESTRICT slope = into.slope.data();
    bool known = true;
    for (int64_t j = 0; j < words; j++) {
      const bool is_known = uint64_t(ids[j]) <= most;
      rows[count] = ids[j] * stride, near[count] = near_of[j], slope[count] = slope_of[j];
      known &= is_known, count += is_known & (ids[j] != 0);
    }
    into.count = count;
    return known;
  }

  // start + Σ_j l_j x_j, in so many whole vectors of the rows from table `from` on.
  void embed(const Sentence<T>& sentence, const T* rows, const T* start, int64_t from, int64_t vectors, T* into) const {
    rows += from * layout.sizes.embedding;
    in_blocks(vectors, [&](auto block, int64_t first) MEMNETS_INLINE {
      const int64_t at = first * WIDTH<T>;
      Vector<T> sum[block], k[block];
      repeat(block, [&](auto i) MEMNETS_INLINE {
        sum[i] = load(start + at + i * WIDTH<T>), k[i] = load(component.data() + at + i * WIDTH<T>);
      });
      for (int64_t j = 0; j < sentence.count; j++) {
        const T *row = rows + sentence.rows[j] + at, near = sentence.near[j], slope = sentence.slope[j];
        repeat(block, [&](auto i) MEMNETS_INLINE { sum[i] += (near - k[i] * slope) * load(row + i * WIDTH<T>); });
      }
      repeat(block, [&](auto i) MEMNETS_INLINE { store(into + at + i * WIDTH<T>, sum[i]); });
    });
  }

  // The gradient of `embed`: add l_j d to the row of every word, and d to `d_start` if there is any.
  void add_gradient(const Sentence<T>& sentence, const T* d, int64_t from, int64_t vectors, T* d_rows, T* d_start) const {
    d_rows += from * layout.sizes.embedding;
    in_blocks(vectors, [&](auto block, int64_t first) MEMNETS_INLINE {
      const int64_t at = first * WIDTH<T>;
      Vector<T> whole[block], sloped[block];
      repeat(block, [&](auto i) MEMNETS_INLINE {
        whole[i] = load(d + at + i * WIDTH<T>), sloped[i] = load(component.data() + at + i * WIDTH<T>) * whole[i];
      });
      const auto add = [&](T* row, T near, T slope) MEMNETS_INLINE {
        repeat(block, [&](auto i) MEMNETS_INLINE {
          T* place = row + at + i * WIDTH<T>;
          store(place, load(place) + near * whole[i] - slope * sloped[i]);
        });
      };
      for (int64_t j = 0; j < sentence.count; j++) add(d_rows + sentence.rows[j], sentence.near[j], sentence.slope[j]);
      if (d_start) add(d_start, T(1), T(0));
    });
  }

  RowLayout<T> layout;
  std::vector<T> component;  // k / d of every number of a row

 private:
  std::vector<T> near_, slope_;  // [length word]
};

// p_i = exp(s_i) / Σ_j exp(s_j) (equation 1), in place; among the j are as many scores of 0 as slots are `empty`.
template <class T>
inline void softmax(T* scores, int64_t count, int64_t empty) {
  Vector<T> top = spread(empty ? T(0) : -std::numeric_limits<T>::infinity()), sum = {};
  each<T>(count, [&](int64_t i, auto lanes) MEMNETS_INLINE {
    top = larger(top, lanes.otherwise(lanes.load(scores + i), -std::numeric_limits<T>::infinity()));
  });
  const Vector<T> most = spread(largest_of<T>(top));
  each<T>(count, [&](int64_t i, auto lanes) MEMNETS_INLINE {
    const Vector<T> grown = exponential(lanes.load(scores + i) - most);
    lanes.store(scores + i, grown);
    sum += lanes.otherwise(grown, T(0));
  });
  const T share = 1 / (sum_of<T>(sum) + T(empty) * exponential(spread(T(0)) - most)[0]);
  each<T>(count,
          [&](int64_t i, auto lanes) MEMNETS_INLINE { lanes.store(scores + i, share * lanes.load(scores + i)); });
}

}  // namespace memnets
