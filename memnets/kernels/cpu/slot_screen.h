// Scores of a block of keys for a few queries at a time, each with a bound on how far it lies from `dot`.
//
// A screen takes queries once and then blocks of keys. Its scores come from a matrix product; what they can't rule out
// is scored again by `dot`, whatever the screen, so that results don't depend on which one a CPU has.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "matrix.h"

namespace memnets {

constexpr int64_t BLOCK = 1024;  // keys: they, their bytes, queries and best slots fit a second-level cache
constexpr int64_t FEW = 8;      // queries

// |dot(q, k) - q·k| <= rounding_bound · |q| |k| for words of this size (Higham 2002, section 3.1), and to spare.
template <class T>
inline double rounding_bound(int64_t word) {
  return double(word + 8) * std::numeric_limits<T>::epsilon();
}

// At least √(Σ x²), whatever rounding and underflow do: squares below the least normal number may come out as 0.
template <class T>
inline double norm_bound(T sum_of_squares, int64_t word) {
  return std::sqrt(double(sum_of_squares)) * (1 + rounding_bound<T>(word)) +
         std::sqrt(double(word) * std::numeric_limits<T>::min());
}

// The greater number; NaN stays.
template <class T>
inline T greater(T a, T b) {
  return a != a || a > b ? a : b;
}

// The product in the keys' own precision, and the rounding of two ways to sum it.
template <class T>
class PlainScreen {
 public:
  using Score = T;
  static constexpr Score LOWEST = -std::numeric_limits<T>::infinity();

  explicit PlainScreen(int64_t word) : word_(word), keys_(word * BLOCK), zeros_(BLOCK, T(0)) {}

  void take_queries(const T* queries, int64_t count) {
    queries_ = queries;
    norms_.resize(count);
    for (int64_t i = 0; i < count; i++) norms_[i] = norm(queries + i * word_);
  }

  void take_keys(const T* keys, int64_t count) {
    transpose<T>({keys, word_}, {keys_.data(), BLOCK}, count, word_);
    norm_ = 0;
    for (int64_t i = 0; i < count; i++) norm_ = greater(norm_, norm(keys + i * word_));
    count_ = count;
  }

  // Scores [count][BLOCK] of queries from `first` on.
  void score(int64_t first, int64_t count, Score* into) const {
    multiply<T>(Rows<const T>{zeros_.data(), 0}, Rows<const T>{queries_ + first * word_, word_},
                {keys_.data(), BLOCK}, {into, BLOCK}, count, word_, count_);
  }

  // What the screen's score is at least where `dot` is `least` or more. NaN rules out nothing.
  Score bound(int64_t query, double least) const { return Score(least - margin(query)); }
  // The same where `dot` is at most so much less than that of a key whose score here is `score`.
  Score below(int64_t query, Score score, double less) const { return Score(score - 2 * margin(query) - less); }

 private:
  double norm(const T* vector) const { return norm_bound(dot(vector, vector, word_), word_); }
  // Twice as much as the two sums differ, so that rounding `bound` and `below` doesn't matter.
  double margin(int64_t query) const { return 4 * rounding_bound<T>(word_) * norms_[query] * norm_; }

  int64_t word_, count_ = 0;
  const T* queries_ = nullptr;
  double norm_ = 0;
  std::vector<double> norms_;
  std::vector<T> keys_, zeros_;
};

}  // namespace memnets
