// The k best of many scores, exactly, and the k best sums of two such choices: the search of product keys.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "simd.h"

namespace memnets {

// A whole number that says of a score and its place who comes first: of two the greater; NaN is above all, and of equal
// scores the lower place is greater. No two are equal.
template <class T>
struct RankOf {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  using type = std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128>;
  static constexpr int BITS = 8 * sizeof(T);
  static constexpr Bits SIGN = Bits(1) << (BITS - 1);
};
template <class T>
using Rank = typename RankOf<T>::type;

template <class T>
inline Rank<T> rank_of(T score, int64_t place) {
  using R = RankOf<T>;
  score = score == score ? score : std::numeric_limits<T>::quiet_NaN();  // -0 is 0
  typename R::Bits bits;
  std::memcpy(&bits, &score, sizeof(T));
  bits = bits & R::SIGN ? ~bits : bits | R::SIGN;
  return Rank<T>(bits) << R::BITS | typename R::Bits(~place);
}
template <class T>
inline int64_t place_of(Rank<T> rank) {
  return typename RankOf<T>::Bits(~rank);
}
template <class T>
inline T score_of(Rank<T> rank) {
  using R = RankOf<T>;
  typename R::Bits bits = rank >> R::BITS;
  bits = bits & R::SIGN ? bits ^ R::SIGN : ~bits;
  T score;
  std::memcpy(&score, &bits, sizeof(T));
  return score;
}

// into[0 .. k) = the k greatest of `count` ranks, in order; behind these there is room for a vector. They are lost.
inline void best_ranks(uint64_t* MEMNETS_RESTRICT ranks, int64_t count, int64_t k, uint64_t* MEMNETS_RESTRICT into) {
  using Eight = Vector<uint64_t>;
  constexpr int64_t width = WIDTH<uint64_t>, most = 256;
  if (count > most) {  // more are compared with one another only where that is few
    std::nth_element(ranks, ranks + k - 1, ranks + count, std::greater<>());
    count = k;
  }
  if (count > most) {
    std::sort(ranks, ranks + count, std::greater<>());
    std::copy_n(ranks, k, into);
    return;
  }
  store<uint64_t>(ranks + count, Eight{});
  each_block<4>((count + width - 1) / width, [&](auto block, int64_t first) MEMNETS_INLINE {
    Eight own[block], greater[block];  // how many are greater is where it belongs
    repeat(block, [&](auto i) MEMNETS_INLINE { own[i] = load(ranks + (first + i) * width), greater[i] = Eight{}; });
    for (int64_t j = 0; j < count; j++) {
      const Eight other = spread(ranks[j]);
      repeat(block, [&](auto i) MEMNETS_INLINE { greater[i] -= Eight(other > own[i]); });
    }
    for (int64_t i = first * width; i < std::min((first + block) * width, count); i++) {
      const int64_t place = greater[i / width - first][i % width];
      if (place < k) into[place] = ranks[i];
    }
  });
}
inline void best_ranks(unsigned __int128* ranks, int64_t count, int64_t k, unsigned __int128* into) {
  std::partial_sort_copy(ranks, ranks + count, into, into + k, std::greater<>());
}

// Searches for one query after the other.
template <class T>
class HalfKeySearch {
 public:
  HalfKeySearch(int64_t side, int64_t k)
      : side_(side), k_(k), groups_(padded<T>(2 * k)), found_(side), maxima_(groups_),
        ranks_(std::max(side, k * k) + WIDTH<uint64_t>), best_(k), first_(k), second_(k) {}

  // Scores and slots of the k best sums, best first: slot i * side + j has first[i] + second[j].
  void operator()(const T* first, const T* second, T* scores, int64_t* slots) {
    best_half(first, first_);
    best_half(second, second_);
    best_sums();
    for (int64_t j = 0; j < k_; j++) scores[j] = score_of<T>(best_[j]), slots[j] = place_of<T>(best_[j]);
  }

 private:
  struct Best {
    explicit Best(int64_t k) : scores(k), places(k) {}
    std::vector<T> scores;
    std::vector<int64_t> places;
  };

  void best_half(const T* scores, Best& into) {
    const T bound = bound_of(scores);
    int64_t count = 0;
    for (int64_t i = 0; i < side_; i++) found_[count] = int32_t(i), count += !(scores[i] < bound);
    if (count < k_)  // a bound among NaN is none
      for (count = 0; count < side_; count++) found_[count] = int32_t(count);
    for (int64_t i = 0; i < count; i++) ranks_[i] = rank_of(scores[found_[i]], found_[i]);
    best_ranks(ranks_.data(), count, k_, best_.data());
    for (int64_t j = 0; j < k_; j++) into.scores[j] = score_of<T>(best_[j]), into.places[j] = place_of<T>(best_[j]);
  }

  // A number that k scores at least reach: the k-th of the greatest of at least 2k groups.
  T bound_of(const T* scores) {
    using Count = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    constexpr T most = std::numeric_limits<T>::infinity();
    if (2 * groups_ > side_) return -most;
    T* maxima = maxima_.data();
    std::copy_n(scores, groups_, maxima);
    for (int64_t from = groups_; from + groups_ <= side_; from += groups_)
      for (int64_t i = 0; i < groups_; i += WIDTH<T>)
        store(maxima + i, larger(load(maxima + i), load(scores + from + i)));
    Vector<T> least = spread(most);
    each_block<4>(groups_ / WIDTH<T>, [&](auto block, int64_t first) MEMNETS_INLINE {
      Vector<T> own[block];
      Vector<Count> greater[block];
      repeat(block, [&](auto i) MEMNETS_INLINE { own[i] = load(maxima + (first + i) * WIDTH<T>), greater[i] = Vector<Count>{}; });
      for (int64_t j = 0; j < groups_; j++) {
        const Vector<T> other = spread(maxima[j]);
        repeat(block, [&](auto i) MEMNETS_INLINE { greater[i] -= other > own[i]; });
      }
      repeat(block, [&](auto i) MEMNETS_INLINE {
        const Vector<T> among = greater[i] < Count(k_) ? own[i] : spread(most);
        least = among < least ? among : least;
      });
    });
    return folded<T, VECTOR_BYTES>(least, [](auto a, auto b) { return a < b ? a : b; });
  }

  // No less than sum (i, j) in the order of either half are (i + 1) (j + 1) sums: where these are k, it is a bound.
  void best_sums() {
    T bound = -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < k_; i++) bound = larger(sum(i, (k_ + i) / (i + 1) - 1), bound);
    int64_t count = 0;
    const auto take = [&](int64_t i, int64_t j) {
      ranks_[count++] = rank_of(sum(i, j), first_.places[i] * side_ + second_.places[j]);
    };
    for (int64_t i = 0; i < k_; i++)
      for (int64_t j = 0; j < k_ && !(sum(i, j) < bound); j++) take(i, j);
    if (count < k_) {  // a bound among NaN is none
      count = 0;
      for (int64_t i = 0; i < k_; i++)
        for (int64_t j = 0; j < k_; j++) take(i, j);
    }
    best_ranks(ranks_.data(), count, k_, best_.data());
  }

  T sum(int64_t i, int64_t j) const { return first_.scores[i] + second_.scores[j]; }

  int64_t side_, k_, groups_;
  std::vector<int32_t> found_;
  std::vector<T> maxima_;
  std::vector<Rank<T>> ranks_, best_;
  Best first_, second_;
};

}  // namespace memnets
