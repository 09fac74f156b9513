// A screen in whole numbers of 8 bits: three to four times as fast as float32 where the CPU multiplies these (VNNI).
#pragma once

#include "slot_screen.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define MEMNETS_BYTES 1

namespace memnets {

constexpr int64_t LONGEST_BYTE_WORD = 4096;  // far from where sums of products leave 32 bits

// Queries and keys as multiples of a step, q' = a i and k' = c j with -127 <= i, j <= 127: then a c Σ ij = q'·k' without
// any rounding, and as q·k - q'·k' = (q - q')·k + q'·(k - k'),
//
//   |q·k - q'·k'| <= |q - q'| |k| + (|q| + |q - q'|) |k - k'|     (Cauchy-Schwarz)
//
// of which all norms are known: that is the bound, with the greatest of a block of keys. A query has its own step; keys
// have that of their block.
class ByteScreen {
 public:
  using Score = int32_t;
  static constexpr Score LOWEST = std::numeric_limits<int32_t>::min();

  explicit ByteScreen(int64_t word)
      : word_(word), bytes_((word + 3) / 4 * 4), rows_(16 * bytes_), keys_(BLOCK * bytes_) {}

  void take_queries(const float* queries, int64_t count) {
    queries_.assign((count + FEW - 1) / FEW * FEW * bytes_, 0);
    starts_.assign((count + FEW - 1) / FEW * FEW, 0);
    told_.resize(count);
    for (int64_t i = 0; i < count; i++) {
      const float* query = queries + i * word_;
      int8_t* into = queries_.data() + i * bytes_;
      told_[i].step = step_of(query, word_);
      const auto [square, lost] = steps(query, told_[i].step, into);
      told_[i].set(square, lost, word_);
      for (int64_t w = 0; w < word_; w++) starts_[i] -= 128 * into[w];
    }
  }

  void take_keys(const float* keys, int64_t count) {
    told_keys_.step = step_of(keys, count * word_);
    float square = 0, lost = 0;
    for (int64_t group = 0; group * 16 < count; group++) {
      std::fill(rows_.begin(), rows_.end(), 0);
      for (int64_t i = 0; i < std::min<int64_t>(16, count - group * 16); i++) {
        const auto [own_square, own_lost] = steps(keys + (group * 16 + i) * word_, told_keys_.step, &rows_[i * bytes_]);
        square = greater(square, own_square);
        lost = greater(lost, own_lost);
      }
      pack(&keys_[group * 16 * bytes_]);
    }
    told_keys_.set(square, lost, word_);
    groups_ = (count + 15) / 16;
  }

  void score(int64_t first, int64_t, Score* into) const {
    int64_t group = 0;
    for (; group + 3 <= groups_; group += 3) tile<3>(first, group, into + group * 16);
    if (groups_ - group == 2) tile<2>(first, group, into + group * 16);
    if (groups_ - group == 1) tile<1>(first, group, into + group * 16);
  }

  Score bound(int64_t query, double least) const { return whole((least - margin(query)) / step(query)); }
  Score below(int64_t query, Score score, double less) const {
    return whole(score - (2 * margin(query) + less) / step(query));
  }

 private:
  // Four numbers of each of 16 keys side by side, moved as if they were one float; from 1 to 255, as VNNI has it.
  void pack(uint8_t* MEMNETS_RESTRICT into) const {
    transpose<float>({reinterpret_cast<const float*>(rows_.data()), bytes_ / 4}, {reinterpret_cast<float*>(into), 16},
                     16, bytes_ / 4);
    for (int64_t i = 0; i < bytes_ * 16; i++) into[i] ^= 0x80;
  }

  // Bounds of what is known about one query, or about all keys of a block.
  struct Told {
    void set(float square, float lost_square, int64_t word) {
      norm = norm_bound(square, word);
      // q - q' itself is rounded, by no more than 2^-23 |q'|.
      lost = norm_bound(lost_square, word) + 2.5e-7 * norm;
    }
    float step = 1;
    double norm = 0, lost = 0;
  };

  // The step by which the greatest of these numbers is 127; 1 where there is none to be had.
  static float step_of(const float* numbers, int64_t count) {
    Vector<float> most = {};
    each<float>(count, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const Vector<float> number = lanes.load(numbers + i);
      most = larger(most, larger(number, -number));
    });
    const float step = largest_of<float>(most) / 127;
    return step > 1e-30f && step < 1e30f ? step : 1.0f;
  }

  struct Squares {
    float whole, lost;
  };
  // A vector in steps; the sums of the squares of its numbers, and of what they lost.
  Squares steps(const float* vector, float step, int8_t* into) const {
    Vector<float> square = {}, lost = {};
    const float factor = 1 / step;
    each<float>(word_, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const Vector<float> number = lanes.load(vector + i);
      const __m512i steps = _mm512_cvtps_epi32(_mm512_mul_ps(number, spread(factor)));
      const Vector<float> left = number - step * Vector<float>(_mm512_cvtepi32_ps(steps));
      square += number * number;
      lost += left * left;
      alignas(16) int8_t bytes[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtsepi32_epi8(steps));
      std::memcpy(into + i, bytes, std::min<int64_t>(16, word_ - i));
    });
    return {sum_of<float>(square), sum_of<float>(lost)};
  }

  double step(int64_t query) const { return double(told_[query].step) * told_keys_.step; }
  double margin(int64_t query) const {
    const Told& own = told_[query];
    const double rounding = 2 * rounding_bound<float>(word_) * own.norm * told_keys_.norm;
    return 1.0001 * (own.lost * told_keys_.norm + (own.norm + own.lost) * told_keys_.lost) + rounding;
  }

  // Rounded down; NaN, and what is too low, rules out nothing.
  static Score whole(double score) {
    return score > LOWEST + 1.0 ? Score(std::min(std::floor(score), 2147483647.0)) : LOWEST;
  }

  template <int GROUPS>
  void tile(int64_t first, int64_t group, Score* into) const {
    constexpr std::integral_constant<int, FEW> few;
    constexpr std::integral_constant<int, GROUPS> some;
    const int64_t words = bytes_ / 4;
    const uint8_t* keys = &keys_[group * 16 * bytes_];
    const int8_t* queries = &queries_[first * bytes_];
    __m512i sums[FEW][GROUPS];
    repeat(few, [&](auto q) MEMNETS_INLINE {
      repeat(some, [&](auto g) MEMNETS_INLINE { sums[q][g] = _mm512_set1_epi32(starts_[first + q]); });
    });
    for (int64_t w = 0; w < words; w++) {
      __m512i columns[GROUPS];
      repeat(some, [&](auto g) MEMNETS_INLINE { columns[g] = _mm512_loadu_si512(keys + (g * words + w) * 64); });
      repeat(few, [&](auto q) MEMNETS_INLINE {
        int32_t four;
        std::memcpy(&four, queries + q * bytes_ + w * 4, 4);
        const __m512i row = _mm512_set1_epi32(four);
        repeat(some, [&](auto g) MEMNETS_INLINE { sums[q][g] = _mm512_dpbusd_epi32(sums[q][g], columns[g], row); });
      });
    }
    repeat(few, [&](auto q) MEMNETS_INLINE {
      repeat(some, [&](auto g) MEMNETS_INLINE { _mm512_storeu_si512(into + q * BLOCK + g * 16, sums[q][g]); });
    });
  }

  int64_t word_, bytes_, groups_ = 0;
  std::vector<int8_t> rows_, queries_;
  std::vector<uint8_t> keys_;
  std::vector<int32_t> starts_;  // what makes up for keys that are 128 too great
  std::vector<Told> told_;
  Told told_keys_;
};

}  // namespace memnets
#endif
