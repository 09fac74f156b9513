// A Memory Network reading a story, of one example: its hops (Sukhbaatar et al. 2015, section 2), forward and backward.
//
// Slots of sentences that aren't told are left out at once: nothing here knows of masks. Slots are made again for the
// backward pass, so that a story costs no memory but for its weights.
#pragma once

#include "memory_hops.h"

namespace memnets {

// Of one example. `queries` [hops + 1, embedding] are u^1 to u^{K+1}, `weights` [hops sentences] p of the slots told.
template <class T>
struct HopsExample {
  const int64_t *story, *ages, *question;  // [sentences words], [sentences] if there are any, [words]
  T *queries, *weights;
};

// Of one replica: rows as `RowLayout` has them, H [embedding embedding] if there is any, and whether weights are linear.
template <class T>
struct HopsReplica {
  const T *rows, *update;
  bool linear;
};

// Where gradients of rows and of H are added up; null where none are wanted.
template <class T>
struct HopsGradients {
  T *rows, *update;
};

template <class T>
class HopReader {
 public:
  HopReader(const HopsSizes& sizes, const HopsScheme& scheme, const Encoding<T>& encoding)
      : sizes_(sizes), scheme_(scheme), encoding_(encoding), size_(sizes.embedding), stride_(encoding.layout.stride),
        slot_vectors_(padded<T>(scheme.story_tables() * size_) / WIDTH<T>), sentence_(sizes.words),
        told_(sizes.sentences), slots_(sizes.sentences * stride_ + WIDTH<T>), d_weights_(scheme.hops * sizes.sentences),
        d_found_(scheme.hops * size_), query_(padded<T>(size_)) {}

  // u^{K+1}, the last of the example's queries. False if a word or an age isn't known.
  bool forward(const HopsReplica<T>& replica, const HopsExample<T>& example) {
    const bool known = embed(replica, example);
    for (int64_t hop = 0; hop < scheme_.hops; hop++) {
      const T* query = example.queries + hop * size_;
      T* weights = example.weights + hop * sizes_.sentences;
      score(query, scheme_.key(hop), T(scheme_.scale), weights);
      if (!replica.linear) softmax(weights, count_, scheme_.attend_empty ? sizes_.sentences - count_ : 0);
      std::fill(weights + count_, weights + sizes_.sentences, T(0));
      next_query(replica, query, weights, scheme_.value(hop), example.queries + (hop + 1) * size_);
    }
    return known;
  }

  // Adds the gradients of everything, from that of u^{K+1}.
  void backward(const HopsReplica<T>& replica, const HopsExample<T>& example, const T* d_result,
                const HopsGradients<T>& into) {
    embed(replica, example, false);
    std::copy_n(d_result, size_, query_.data());
    for (int64_t hop = scheme_.hops - 1; hop >= 0; hop--) hop_backward(replica, example, hop, into.update);
    if (!into.rows) return;
    for (int64_t n = 0; n < count_; n++) slot_gradient(example, n);
    for (int64_t n = 0; n < count_; n++) {
      const int64_t i = told_[n];
      encoding_.read(example.story + i * sizes_.words, sentence_);
      const int64_t age = age_row(example, i);
      encoding_.add_gradient(sentence_, slot(n), 0, slot_vectors_, into.rows, age ? into.rows + age : nullptr);
    }
    encoding_.read(example.question, sentence_);
    encoding_.add_gradient(sentence_, query_.data(), scheme_.question(), query_vectors(), into.rows, nullptr);
  }

 private:
  T* slot(int64_t n) { return slots_.data() + n * stride_; }
  int64_t age_row(const HopsExample<T>& example, int64_t i) const {
    return example.ages ? encoding_.layout.age(std::max<int64_t>(example.ages[i], 0)) : 0;
  }
  int64_t query_vectors() const { return padded<T>(size_) / WIDTH<T>; }

  // Slots m_i = Σ_j l_j A x_ij + T_A(age) of what is told, in every table; and u^1.
  bool embed(const HopsReplica<T>& replica, const HopsExample<T>& example, bool question = true) {
    bool known = true;
    count_ = 0;
    for (int64_t i = 0; i < sizes_.sentences; i++) {
      known &= encoding_.read(example.story + i * sizes_.words, sentence_);
      if (sentence_.count == 0) continue;
      known &= !example.ages || example.ages[i] >= 0;
      const T* start = replica.rows + age_row(example, i);
      encoding_.embed(sentence_, replica.rows, start, 0, slot_vectors_, slot(count_));
      told_[count_++] = i;
    }
    if (!question) return known;
    known &= encoding_.read(example.question, sentence_);
    encoding_.embed(sentence_, replica.rows, replica.rows, scheme_.question(), query_vectors(), query_.data());
    std::copy_n(query_.data(), size_, example.queries);
    return known;
  }

  // scale · uᵀ m_i of every slot, by one table.
  void score(const T* query, int64_t table, T scale, T* into) {
    const T* key = slots_.data() + table * size_;
    for (int64_t n = 0; n < count_; n++) into[n] = scale * dot(query, key + n * stride_, size_);
  }

  // Σ_i p_i c_i (equation 2), by one table, for the numbers at i.
  template <class Lanes>
  Vector<T> found(const T* weights, int64_t table, int64_t i, const Lanes& lanes) const {
    const T* value = slots_.data() + table * size_ + i;
    Vector<T> sum[4] = {};
    int64_t n = 0;
    for (; n + 4 <= count_; n += 4)
      repeat(std::integral_constant<int, 4>{},
             [&](auto j) MEMNETS_INLINE { sum[j] += weights[n + j] * lanes.load(value + (n + j) * stride_); });
    for (; n < count_; n++) sum[0] += weights[n] * lanes.load(value + n * stride_);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }

  // u^{k+1} = f(u^k + o^k), with H u^k in place of u^k where there is an H (equation 4).
  void next_query(const HopsReplica<T>& replica, const T* query, const T* weights, int64_t table, T* into) {
    for (int64_t i = 0; replica.update && i < size_; i++) into[i] = dot(replica.update + i * size_, query, size_);
    each<T>(size_, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const Vector<T> before = replica.update ? lanes.load(into + i) : lanes.load(query + i);
      const Vector<T> sum = before + found(weights, table, i, lanes);
      lanes.store(into + i, scheme_.relu ? (sum < T(0) ? spread(T(0)) : sum) : sum);
    });
  }

  // From d u^{k+1} to d u^k, both in `query_`; what the slots' gradients need stays in `d_found_` and `d_weights_`.
  void hop_backward(const HopsReplica<T>& replica, const HopsExample<T>& example, int64_t hop, T* d_update) {
    const T *query = example.queries + hop * size_, *weights = example.weights + hop * sizes_.sentences;
    T *d_sum = d_found_.data() + hop * size_, *d_scores = d_weights_.data() + hop * sizes_.sentences;
    each<T>(size_, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      const Vector<T> given = lanes.load(query_.data() + i), result = lanes.load(query + size_ + i);
      lanes.store(d_sum + i, scheme_.relu ? (result <= T(0) ? spread(T(0)) : given) : given);
    });
    score(d_sum, scheme_.value(hop), T(1), d_scores);
    const T mean = replica.linear ? T(0) : dot(weights, d_scores, count_), scale = T(scheme_.scale);
    each<T>(count_, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> d = lanes.load(d_scores + n);
      lanes.store(d_scores + n, replica.linear ? scale * d : scale * lanes.load(weights + n) * (d - mean));
    });
    std::copy_n(d_sum, size_, query_.data());
    if (replica.update) update_backward(replica.update, query, d_sum, d_update);
    each<T>(size_, [&](int64_t i, auto lanes) MEMNETS_INLINE {
      lanes.store(query_.data() + i, lanes.load(query_.data() + i) + found(d_scores, scheme_.key(hop), i, lanes));
    });
  }

  void update_backward(const T* update, const T* query, const T* d_sum, T* d_update) {
    std::fill_n(query_.data(), size_, T(0));
    for (int64_t i = 0; i < size_; i++) {
      add_scaled(query_.data(), update + i * size_, d_sum[i], size_);
      if (d_update) add_scaled(d_update + i * size_, query, d_sum[i], size_);
    }
  }

  // The gradient of slot n, in its place: Σ d s_i u^k of each hop that reads its keys from a table, Σ p_i d o^k of each
  // that reads values there. Whole vectors are stored: what comes behind a table is overwritten next.
  void slot_gradient(const HopsExample<T>& example, int64_t n) {
    const T *MEMNETS_RESTRICT queries = example.queries, *MEMNETS_RESTRICT d_found = d_found_.data();
    const T *MEMNETS_RESTRICT weights = example.weights + n, *MEMNETS_RESTRICT d_scores = d_weights_.data() + n;
    const int64_t size = size_, sentences = sizes_.sentences, hops = scheme_.hops, tables = scheme_.story_tables();
    T* MEMNETS_RESTRICT into = slot(n);
    for (int64_t table = 0; table < tables; table++, into += size) {
      const int64_t first = scheme_.adjacent ? std::max<int64_t>(table - 1, 0) : 0;
      const int64_t end = scheme_.adjacent ? std::min(table + 1, hops) : hops;
      each<T>(size, [&](int64_t i, auto lanes) MEMNETS_INLINE {
        Vector<T> sum = {};
        for (int64_t hop = first; hop < end; hop++) {
          if (scheme_.key(hop) == table) sum += d_scores[hop * sentences] * lanes.load(queries + hop * size + i);
          if (scheme_.value(hop) == table) sum += weights[hop * sentences] * lanes.load(d_found + hop * size + i);
        }
        store(into + i, sum);
      });
    }
    std::fill(into, slot(n) + slot_vectors_ * WIDTH<T>, T(0));
  }

  HopsSizes sizes_;
  HopsScheme scheme_;
  const Encoding<T>& encoding_;
  int64_t size_, stride_, slot_vectors_, count_ = 0;  // how many slots are told
  Sentence<T> sentence_;
  std::vector<int64_t> told_;  // the sentence of each
  std::vector<T> slots_, d_weights_, d_found_;
  std::vector<T> query_;  // 0 beyond its size in the backward pass, where whole vectors of it are added
};

}  // namespace memnets
