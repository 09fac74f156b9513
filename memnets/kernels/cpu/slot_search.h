// The k best keys of each of many queries, exactly, in one pass over the keys.
#pragma once

#include "best_slots.h"
#include "byte_screen.h"

namespace memnets {

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
