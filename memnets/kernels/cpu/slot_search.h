// The k best keys of each of many queries, exactly, in one pass over the keys.
#pragma once

#include <tuple>

#include "byte_screen.h"

namespace memnets {

// Bit i tells whether a[i] may be `bound` or more; with NaN on either side, it may.
template <class S>
inline uint64_t lanes_reaching(const S* a, S bound) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, int32_t>)
    return _mm512_cmpge_epi32_mask(_mm512_loadu_si512(a), _mm512_set1_epi32(bound));
  else if constexpr (std::is_same_v<S, float>)
    return _mm512_cmp_ps_mask(load<S>(a), spread(bound), _CMP_NLT_UQ);
  else
    return _mm512_cmp_pd_mask(load<S>(a), spread(bound), _CMP_NLT_UQ);
#else
  uint64_t found = 0;
  for (int64_t i = 0; i < WIDTH<S>; i++) found |= uint64_t(!(a[i] < bound)) << i;
  return found;
#endif
}
// The same of the first 64, or of `count` if that is less; whole vectors of them are read.
template <class S>
inline uint64_t may_reach(const S* a, S bound, int64_t count) {
  uint64_t found = 0;
  if (count >= 64) {
    repeat(std::integral_constant<int, 64 / WIDTH<S>>{}, [&](auto i) MEMNETS_INLINE {
      found |= lanes_reaching(a + i * WIDTH<S>, bound) << (i * WIDTH<S>);
    });
    return found;
  }
  for (int64_t i = 0; i < count; i += WIDTH<S>) found |= lanes_reaching(a + i, bound) << i;
  return found & ((uint64_t(1) << count) - 1);
}

template <class S>
inline int64_t count_reaching(const S* a, S bound, int64_t count) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 64) found += __builtin_popcountll(may_reach(a + i, bound, count - i));
  return found;
}

template <class S>
inline std::pair<S, S> least_and_most(const S* a, int64_t count) {
  S least = a[0], most = a[0];
  int64_t i = 0;
  if (count >= WIDTH<S>) {
    Vector<S> low = load<S>(a), high = low;
    for (; i + WIDTH<S> <= count; i += WIDTH<S>) {
      const Vector<S> next = load<S>(a + i);
      low = next < low ? next : low;
      high = larger(high, next);
    }
    least = folded<S, VECTOR_BYTES>(low, [](auto x, auto y) { return x < y ? x : y; });
    most = largest_of<S>(high);
  }
  for (; i < count; i++) least = std::min(least, a[i]), most = std::max(most, a[i]);
  return {least, most};
}

// A number that k or a few more of `a` reach; the lowest of all if it isn't found.
template <class S>
inline S reached_by(const S* a, int64_t count, int64_t k, S lowest) {
  if (count < k) return lowest;
  const auto [least, most] = least_and_most(a, count);
  double low = least, high = most;
  if (!(high - low < std::numeric_limits<double>::infinity())) return lowest;
  for (int i = 0; i < 16; i++) {
    const S middle = S(low + (high - low) / 2);
    const int64_t reaching = count_reaching(a, middle, count);
    (reaching >= k ? low : high) = middle;
    if (reaching >= k && reaching <= k + k / 4) break;
  }
  return S(low);
}

// scores[i] = dot(query, row places[i] of keys), four rows at once.
template <class T>
inline void dots(const T* query, const T* keys, const int32_t* places, int64_t count, int64_t word, T* scores) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const T* rows[4];
    Vector<T> sums[4] = {};
    for (int j = 0; j < 4; j++) rows[j] = keys + places[i + j] * word;
    each<T>(word, [&](int64_t w, auto lanes) MEMNETS_INLINE {
      const Vector<T> part = lanes.load(query + w);
      repeat(std::integral_constant<int, 4>{}, [&](auto j) MEMNETS_INLINE { sums[j] += part * lanes.load(rows[j] + w); });
    });
    for (int j = 0; j < 4; j++) scores[i + j] = sum_of<T>(sums[j]);
  }
  for (; i < count; i++) scores[i] = dot(query, keys + places[i] * word, word);
}

// The best slots of one query so far, and others that may be among them: of `room` >= 2 k. NaN comes first: as infinity.
template <class T>
struct Best {
  static constexpr T NONE = -std::numeric_limits<T>::infinity();

  // Take slots `first + places[i]`, each if its score is better than the least: later slots are higher.
  void put(const T* found, const int32_t* places, int64_t number, int64_t first, int64_t k) {
    for (int64_t i = 0; i < number;) {
      const int64_t end = std::min(number, i + 2 * k - count);
      T* MEMNETS_RESTRICT into = scores;
      int32_t* MEMNETS_RESTRICT where = slots;
      const T bar = least;
      int64_t at = count;
      for (; i < end; i++) {
        const T score = found[i] != found[i] ? -NONE : found[i];
        into[at] = score;
        where[at] = int32_t(first) + places[i];
        at += score > bar;
      }
      count = at;
      if (count == 2 * k) keep(k);
    }
  }

  // Forget slots that aren't among the k best: all such, or most of them.
  void keep(int64_t k) {
    if (count < k) return;
    least = std::max(least, reached_by(scores, count, k, NONE));
    full = true;
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
      scores[kept] = scores[i];
      slots[kept] = slots[i];
      kept += scores[i] >= least;
    }
    count = kept;
    if (count > k + k / 2) keep_exactly(k);
  }
  void keep_exactly(int64_t k) {
    std::vector<std::pair<T, int32_t>> found(count);
    for (int64_t i = 0; i < count; i++) found[i] = {-scores[i], slots[i]};
    std::nth_element(found.begin(), found.begin() + (k - 1), found.end());
    for (int64_t i = 0; i < k; i++) std::tie(scores[i], slots[i]) = std::pair(-found[i].first, found[i].second);
    least = scores[k - 1];
    count = k;
  }

  // At which place slot i comes.
  int64_t place(int64_t i) const {
    const T score = scores[i];
    const int32_t slot = slots[i];
    int32_t before = 0;
    for (int64_t j = 0; j < count; j++) before += int(scores[j] > score) + (int(scores[j] == score) & int(slots[j] < slot));
    return before;
  }

  T* scores;
  int32_t* slots;
  int64_t count = 0;
  T least = NONE;
  bool full = false;
};

// What a search is given: the keys of one row and key head, and so many queries of them with the stamps that each sees.
template <class T>
struct Search {
  const T *queries, *keys;
  const int64_t *stamps, *oldest, *newest;
  const T* decay;
  int64_t first, count, time, slots, word, k;  // query i is at time (first + i) % time of head (first + i) / time
};

template <class T, class Screen>
class Searcher {
  using Score = typename Screen::Score;

 public:
  explicit Searcher(const Search<T>& search)
      : s_(search), screen_(search.word), room_(padded<T>(2 * search.k)), best_(search.count), seen_(search.count),
        best_scores_(search.count * room_), best_slots_(search.count * room_), scores_(FEW * BLOCK), exact_(BLOCK),
        places_(BLOCK) {
    for (int64_t i = 0; i < s_.count; i++) {
      best_[i].scores = best_scores_.data() + i * room_;
      best_[i].slots = best_slots_.data() + i * room_;
      const int64_t t = (s_.first + i) % s_.time;
      seen_[i] = {s_.oldest[t], s_.newest[t], double(s_.decay[(s_.first + i) / s_.time])};
    }
  }

  // Scores and slots [count][k], best first; -inf and slot 0 where fewer are seen.
  void run(T* scores, int64_t* slots) {
    screen_.take_queries(s_.queries, s_.count);
    for (int64_t slot = 0; slot < s_.slots; slot += BLOCK) take_block(slot, std::min(BLOCK, s_.slots - slot));
    for (int64_t i = 0; i < s_.count; i++) write(i, scores + i * s_.k, slots + i * s_.k);
  }

 private:
  struct Seen {
    bool some(int64_t earliest, int64_t latest) const { return latest >= oldest && earliest <= newest; }
    bool all(int64_t earliest, int64_t latest) const { return earliest >= oldest && latest <= newest; }
    // What a slot of this stamp loses.
    double loss(int64_t stamp) const { return decay * double(newest - stamp); }
    int64_t oldest, newest;
    double decay;
  };

  void take_block(int64_t slot, int64_t count) {
    for (int64_t i = 0; i < count; i += 64)
      std::tie(earliest_[i / 64], latest_[i / 64]) = least_and_most(s_.stamps + slot + i, std::min<int64_t>(64, count - i));
    const int64_t parts = (count + 63) / 64;
    const int64_t earliest = *std::min_element(earliest_, earliest_ + parts);
    const int64_t latest = *std::max_element(latest_, latest_ + parts);
    bool taken = false;
    for (int64_t i = 0; i < s_.count; i += FEW) {
      const int64_t few = std::min(FEW, s_.count - i);
      bool some = false;
      for (int64_t j = 0; j < few; j++) some |= seen_[i + j].some(earliest, latest);
      if (!some) continue;
      if (!taken) screen_.take_keys(s_.keys + slot * s_.word, count);
      taken = true;
      screen_.score(i, few, scores_.data());
      for (int64_t j = 0; j < few; j++)
        if (seen_[i + j].some(earliest, latest))
          take_scores(i + j, slot, count, seen_[i + j].all(earliest, latest), scores_.data() + j * BLOCK);
    }
  }

  void take_scores(int64_t query, int64_t slot, int64_t count, bool all, Score* scores) {
    Best<T>& best = best_[query];
    const Seen& seen = seen_[query];
    const Score reached = best.full ? Screen::LOWEST : reached_here(query, slot, count, all, scores);
    Score bound = best.full                    ? screen_.bound(query, best.least)
                  : reached == Screen::LOWEST ? reached
                                               : screen_.below(query, reached, 0);
    int32_t* places = places_.data();
    int64_t left = 0;
    for (int64_t i = 0; i < count; i += 64) {
      if (seen.decay != 0) bound = bound_with_age(query, reached, i / 64, (count + 63) / 64);
      for (uint64_t lanes = may_reach(scores + i, bound, count - i); lanes; lanes &= lanes - 1) {
        places[left] = int32_t(i) + __builtin_ctzll(lanes);
        left += all || sees(query, slot + places[left]);
      }
    }
    const T* own = s_.queries + query * s_.word;
    dots(own, s_.keys + slot * s_.word, places_.data(), left, s_.word, exact_.data());
    if (seen.decay != 0)
      for (int64_t i = 0; i < left; i++) exact_[i] -= T(seen.loss(s_.stamps[slot + places_[i]]));
    best.put(exact_.data(), places_.data(), left, slot, s_.k);
    if (!best.full) best.keep(s_.k);
  }

  bool sees(int64_t query, int64_t slot) const { return seen_[query].all(s_.stamps[slot], s_.stamps[slot]); }

  // The bound for 64 slots of a block, by the least that these lose. In the first block they may lose less than those
  // that reach `reached`, whose loss is at most that of the earliest slot.
  Score bound_with_age(int64_t query, Score reached, int64_t part, int64_t parts) const {
    const Seen& seen = seen_[query];
    const double least_loss = std::min(seen.loss(std::min(latest_[part], seen.newest)),
                                       seen.loss(std::max(earliest_[part], seen.oldest)));
    const double slight = 16 * std::numeric_limits<T>::epsilon();  // more than subtracting the loss rounds
    if (best_[query].full) {
      const double least = best_[query].least;
      return screen_.bound(query, least - slight * std::abs(least) + least_loss - slight * std::abs(least_loss));
    }
    if (reached == Screen::LOWEST) return reached;
    double most_loss = least_loss;
    for (int64_t i = 0; i < parts; i++)
      most_loss = std::max({most_loss, seen.loss(std::min(latest_[i], seen.newest)),
                            seen.loss(std::max(earliest_[i], seen.oldest))});
    return screen_.below(query, reached, most_loss - least_loss + slight * (std::abs(most_loss) + std::abs(least_loss)));
  }

  // Where there are no k slots yet to be better than: a score that k of this block reach, or a few more.
  Score reached_here(int64_t query, int64_t slot, int64_t count, bool all, Score* scores) const {
    if (!all)
      for (int64_t i = 0; i < count; i++)
        if (!sees(query, slot + i)) scores[i] = Screen::LOWEST;
    return reached_by(scores, count, s_.k, Screen::LOWEST);
  }

  void write(int64_t query, T* scores, int64_t* slots) {
    const Best<T>& best = best_[query];
    for (int64_t i = best.count; i < s_.k; i++) scores[i] = Best<T>::NONE, slots[i] = 0;
    for (int64_t i = 0; i < best.count; i++) {
      const int64_t place = best.place(i);
      if (place >= s_.k) continue;
      slots[place] = best.slots[i];
      scores[place] = best.scores[i] == -Best<T>::NONE ? score_of(query, best.slots[i]) : best.scores[i];
    }
  }
  T score_of(int64_t query, int64_t slot) const {
    return dot(s_.queries + query * s_.word, s_.keys + slot * s_.word, s_.word) - T(seen_[query].loss(s_.stamps[slot]));
  }

  Search<T> s_;
  Screen screen_;
  int64_t room_;
  std::vector<Best<T>> best_;
  std::vector<Seen> seen_;
  std::vector<T> best_scores_;
  std::vector<int32_t> best_slots_;
  int64_t earliest_[BLOCK / 64], latest_[BLOCK / 64];  // stamps of every 64 slots of a block
  std::vector<Score> scores_;
  std::vector<T> exact_;
  std::vector<int32_t> places_;
};

}  // namespace memnets
