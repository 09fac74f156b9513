// Addressing of one head (NTM paper, section 3.3): from what the controller emits to weights over the slots.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "matrix.h"
#include "vector_math.h"

namespace memnets {

constexpr double NORM_EPSILON = 1e-8;      // under the square roots of the cosine
constexpr double SHARPEN_EPSILON = 1e-16;  // under the logarithm of the sharpening of weights

// Which parts a head has, and where each lies in the head's slice of the interface.
struct HeadScheme {
  bool key, cosine, strength, gate, sharpening;
  int64_t shift_width;  // 0: no shift
  int64_t word;

  int64_t strength_at() const { return key ? word : 0; }
  int64_t gate_at() const { return strength_at() + strength; }
  int64_t shift_at() const { return gate_at() + gate; }
  int64_t sharpening_at() const { return shift_at() + shift_width; }
  int64_t size() const { return sharpening_at() + sharpening; }
  // Rows of slots kept for the backward pass: similarity and content weights.
  int64_t num_traces() const { return key ? 2 : 0; }
};

// Softmax of `scores` into `weights`.
template <class T>
inline void softmax(const T* MEMNETS_RESTRICT scores, T* MEMNETS_RESTRICT weights, int64_t size) {
  constexpr T LOWEST = std::numeric_limits<T>::lowest();
  Vector<T> highest = spread(LOWEST), total = {};
  each<T>(size, [&](int64_t n, auto lanes) MEMNETS_INLINE { highest = larger(lanes.otherwise(lanes.load(scores + n), LOWEST), highest); });
  const T most = largest_of<T>(highest);
  each<T>(size, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> power = exponential(lanes.load(scores + n) - most);
    lanes.store(weights + n, power);
    total += lanes.otherwise(power, T(0));
  });
  const T factor = T(1) / sum_of<T>(total);
  each<T>(size, [&](int64_t n, auto lanes) MEMNETS_INLINE { lanes.store(weights + n, factor * lanes.load(weights + n)); });
}

// Raw interface -> emitted: key tanh, strength softplus, gate sigmoid, shift softmax, sharpening 1 + softplus.
template <class T>
inline void emit(const HeadScheme& scheme, const T* MEMNETS_RESTRICT raw, T* MEMNETS_RESTRICT emitted) {
  if (scheme.key)
    each<T>(scheme.word, [&](int64_t w, auto lanes) MEMNETS_INLINE { lanes.store(emitted + w, hyperbolic_tangent(lanes.load(raw + w))); });
  if (scheme.strength) emitted[scheme.strength_at()] = softplus_of(raw[scheme.strength_at()]);
  if (scheme.gate) emitted[scheme.gate_at()] = sigmoid_of(raw[scheme.gate_at()]);
  if (scheme.shift_width) softmax(raw + scheme.shift_at(), emitted + scheme.shift_at(), scheme.shift_width);
  if (scheme.sharpening) emitted[scheme.sharpening_at()] = T(1) + softplus_of(raw[scheme.sharpening_at()]);
}

template <class T>
inline void emit_backward(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted,
                          const T* MEMNETS_RESTRICT d_emitted, T* MEMNETS_RESTRICT d_raw) {
  if (scheme.key)
    each<T>(scheme.word, [&](int64_t w, auto lanes) MEMNETS_INLINE {
      const Vector<T> key = lanes.load(emitted + w);
      lanes.store(d_raw + w, lanes.load(d_emitted + w) * (1 - key * key));
    });
  if (scheme.strength) {
    const int64_t i = scheme.strength_at();
    d_raw[i] = d_emitted[i] * softplus_slope_of(emitted[i]);
  }
  if (scheme.gate) {
    const int64_t i = scheme.gate_at();
    d_raw[i] = d_emitted[i] * emitted[i] * (T(1) - emitted[i]);
  }
  if (scheme.shift_width) {
    const int64_t first = scheme.shift_at();
    const T mean = dot(emitted + first, d_emitted + first, scheme.shift_width);
    for (int64_t i = first; i < first + scheme.shift_width; i++) d_raw[i] = emitted[i] * (d_emitted[i] - mean);
  }
  if (scheme.sharpening) {
    const int64_t i = scheme.sharpening_at();
    d_raw[i] = d_emitted[i] * softplus_slope_of(emitted[i] - T(1));
  }
}

// Working space of one thread for heads over `slots` slots.
template <class T>
struct AddressScratch {
  AddressScratch(int64_t slots, int64_t shift_width)
      : interpolated(slots + shift_width), shifted(slots), d_shifted(slots + shift_width), d_interpolated(slots),
        scores(slots) {}
  std::vector<T> interpolated, shifted, d_shifted, d_interpolated, scores;
};

// Continue a ring, whose `size` numbers begin at `padded_ring[half]`, by `half` numbers on either side.
template <class T>
inline void continue_ring(T* padded_ring, int64_t size, int64_t half) {
  T* ring = padded_ring + half;
  for (int64_t i = 0; i < half; i++) {  // beyond one round, what was continued before is read
    ring[size + i] = ring[i];
    ring[-1 - i] = ring[size - 1 - i];
  }
}

// What goes into the shift: content and previous weights, interpolated (equation 7), or the one that is there.
template <class T>
inline void interpolate(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted, const T* MEMNETS_RESTRICT content,
                        const T* MEMNETS_RESTRICT previous, T* MEMNETS_RESTRICT result, int64_t slots) {
  if (!scheme.gate) {
    std::copy_n(scheme.key ? content : previous, slots, result);
    return;
  }
  const T gate = emitted[scheme.gate_at()];
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> before = lanes.load(previous + n);
    lanes.store(result + n, before + gate * (lanes.load(content + n) - before));
  });
}

// Content weights (equation 5), the softmax of strength times similarity; both are kept.
template <class T>
inline void address_content(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted, const T* MEMNETS_RESTRICT dots,
                            const T* MEMNETS_RESTRICT inverse_norms, T* MEMNETS_RESTRICT similarity,
                            T* MEMNETS_RESTRICT content, T* MEMNETS_RESTRICT scores, int64_t slots) {
  const T strength = scheme.strength ? emitted[scheme.strength_at()] : T(1);
  if (scheme.cosine) {
    const T key_norm = T(1) / std::sqrt(dot(emitted, emitted, scheme.word) + T(NORM_EPSILON));
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      const Vector<T> cosine = lanes.load(dots + n) * key_norm * lanes.load(inverse_norms + n);
      lanes.store(similarity + n, cosine);
      lanes.store(scores + n, strength * cosine);
    });
  } else {
    each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
      lanes.store(similarity + n, lanes.load(dots + n));
      lanes.store(scores + n, strength * lanes.load(dots + n));
    });
  }
  softmax(scores, content, slots);
}

// w'(n) = sum_j shift(j) w(n - (j - half)), slots in a ring that is continued by half the width (equation 8).
template <class T>
inline void shift_ring(const T* MEMNETS_RESTRICT ring, const T* MEMNETS_RESTRICT shift, T* MEMNETS_RESTRICT shifted,
                       int64_t width, int64_t slots) {
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    Vector<T> sum = {};
    for (int64_t j = 0; j < width; j++) sum += shift[j] * lanes.load(ring + n + width - 1 - j);
    lanes.store(shifted + n, sum);
  });
}

// What sharpening takes the logarithm of.
template <class T>
inline Vector<T> sharpened(Vector<T> weight, T epsilon) {
  return (weight < 0 ? Vector<T>{} : weight) + epsilon;
}

// w(n)^sharpening, normalised, as a softmax of logarithms (equation 9).
template <class T>
inline void sharpen(T sharpening, const T* MEMNETS_RESTRICT weights, T* MEMNETS_RESTRICT result,
                    T* MEMNETS_RESTRICT scores, int64_t slots, T epsilon = T(SHARPEN_EPSILON)) {
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    lanes.store(scores + n, sharpening * logarithm(sharpened<T>(lanes.load(weights + n), epsilon)));
  });
  softmax(scores, result, slots);
}

// What is sharpened: the interpolated weights, left in the scratch's ring, and shifted.
template <class T>
inline void shift_interpolated(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted,
                               const T* MEMNETS_RESTRICT content, const T* MEMNETS_RESTRICT previous,
                               T* MEMNETS_RESTRICT shifted, AddressScratch<T>& scratch, int64_t slots) {
  const int64_t half = scheme.shift_width / 2;
  T* ring = scratch.interpolated.data();
  interpolate(scheme, emitted, content, previous, scheme.shift_width ? ring + half : shifted, slots);
  if (!scheme.shift_width) return;
  continue_ring(ring, slots, half);
  shift_ring(ring, emitted + scheme.shift_at(), shifted, scheme.shift_width, slots);
}

// Weights of one head over the slots (equations 5 to 9), from the dot products of its key with every slot.
//
// `inverse_norms` 1/|M(n)|, read for the cosine only; `traces` receives what the backward pass needs.
template <class T>
inline void address(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted, const T* MEMNETS_RESTRICT dots,
                    const T* MEMNETS_RESTRICT inverse_norms, const T* MEMNETS_RESTRICT previous,
                    T* MEMNETS_RESTRICT traces, T* MEMNETS_RESTRICT weights, AddressScratch<T>& scratch,
                    int64_t slots) {
  T *content = traces + slots, *scores = scratch.scores.data();
  if (scheme.key) address_content(scheme, emitted, dots, inverse_norms, traces, content, scores, slots);
  T* shifted = scheme.sharpening ? scratch.shifted.data() : weights;
  shift_interpolated(scheme, emitted, content, previous, shifted, scratch, slots);
  if (scheme.sharpening) sharpen(emitted[scheme.sharpening_at()], shifted, weights, scores, slots);
}

// Gradient of the sharpening: `d_shifted` from that of the weights.
template <class T>
inline T sharpen_backward(T sharpening, const T* MEMNETS_RESTRICT shifted, const T* MEMNETS_RESTRICT weights,
                          const T* MEMNETS_RESTRICT d_weights, T* MEMNETS_RESTRICT d_shifted, int64_t slots,
                          T epsilon = T(SHARPEN_EPSILON)) {
  const T mean = dot(weights, d_weights, slots);
  Vector<T> d_sharpening = {};
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> weight = lanes.load(shifted + n), base = lanes.otherwise(sharpened<T>(weight, epsilon), T(1));
    const Vector<T> d_score = lanes.load(weights + n) * (lanes.load(d_weights + n) - mean);
    d_sharpening += d_score * logarithm(base);
    lanes.store(d_shifted + n, weight < 0 ? Vector<T>{} : sharpening * d_score * reciprocal(base));
  });
  return sum_of<T>(d_sharpening);
}

// Gradient of the shift: of the entries, and of the interpolated weights `d_interpolated`.
template <class T>
inline void shift_backward(const HeadScheme& scheme, const T* MEMNETS_RESTRICT shift, const T* MEMNETS_RESTRICT ring,
                           T* MEMNETS_RESTRICT d_ring, T* MEMNETS_RESTRICT d_shift, T* MEMNETS_RESTRICT d_interpolated,
                           int64_t slots) {
  const int64_t width = scheme.shift_width, half = width / 2;
  continue_ring(d_ring, slots, half);
  for (int64_t j = 0; j < width; j++) d_shift[j] = dot(d_ring + half, ring + width - 1 - j, slots);
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    Vector<T> sum = {};
    for (int64_t j = 0; j < width; j++) sum += shift[j] * lanes.load(d_ring + n + j);
    lanes.store(d_interpolated + n, sum);
  });
}

// Gradient of `address`, from that of its weights (`d_weights`).
//
// `d_previous` receives the gradient of the previous weights, `d_emitted` those of all the head emits but its key.
// `d_dots` receives that of the dot products. A cosine also depends on the norms: `d_norms` grows by
// dK(n) K(n) / |M(n)|^2, which times -M(n) is what the norm of slot n adds to the memory's gradient; returned is
// sum_n dK(n) K(n) / |key|^2, which times -key is what the key's norm adds to the key's.
template <class T>
inline T address_backward(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted,
                          const T* MEMNETS_RESTRICT inverse_norms, const T* MEMNETS_RESTRICT previous,
                          const T* MEMNETS_RESTRICT traces, const T* MEMNETS_RESTRICT weights,
                          const T* MEMNETS_RESTRICT d_weights, T* MEMNETS_RESTRICT d_previous,
                          T* MEMNETS_RESTRICT d_emitted, T* MEMNETS_RESTRICT d_dots, T* MEMNETS_RESTRICT d_norms,
                          AddressScratch<T>& scratch, int64_t slots) {
  const int64_t half = scheme.shift_width / 2;
  const T *similarity = traces, *content = traces + slots;
  T *ring = scratch.interpolated.data(), *d_ring = scratch.d_shifted.data();
  T *shifted = scratch.shifted.data(), *d_interpolated = scheme.shift_width ? scratch.d_interpolated.data() : d_ring;
  if (scheme.sharpening || scheme.shift_width)
    shift_interpolated(scheme, emitted, content, previous, shifted, scratch, slots);
  if (scheme.sharpening)
    d_emitted[scheme.sharpening_at()] =
        sharpen_backward(emitted[scheme.sharpening_at()], shifted, weights, d_weights, d_ring + half, slots);
  else
    std::copy_n(d_weights, slots, d_ring + half);
  if (scheme.shift_width)
    shift_backward(scheme, emitted + scheme.shift_at(), ring, d_ring, d_emitted + scheme.shift_at(), d_interpolated,
                   slots);
  if (!scheme.key) {
    std::copy_n(d_interpolated, slots, d_previous);
    return T(0);
  }
  const T gate = scheme.gate ? emitted[scheme.gate_at()] : T(1);
  const T strength = scheme.strength ? emitted[scheme.strength_at()] : T(1);
  const T d_gate_content = dot(d_interpolated, content, slots), mean = gate * d_gate_content;
  if (scheme.gate) d_emitted[scheme.gate_at()] = d_gate_content - dot(d_interpolated, previous, slots);
  const T squared = scheme.cosine ? T(1) / (dot(emitted, emitted, scheme.word) + T(NORM_EPSILON)) : T(1);
  const T key_norm = std::sqrt(squared);
  Vector<T> d_strengths = {};
  each<T>(slots, [&](int64_t n, auto lanes) MEMNETS_INLINE {
    const Vector<T> d_mixed = lanes.load(d_interpolated + n), alike = lanes.load(similarity + n);
    const Vector<T> d_score = lanes.load(content + n) * (gate * d_mixed - mean), d_alike = strength * d_score;
    lanes.store(d_previous + n, (1 - gate) * d_mixed);
    d_strengths += d_score * alike;
    if (scheme.cosine) {
      const Vector<T> inverse = lanes.load(inverse_norms + n);
      lanes.store(d_norms + n, lanes.load(d_norms + n) + d_alike * alike * inverse * inverse);
      lanes.store(d_dots + n, d_alike * key_norm * inverse);
    } else {
      lanes.store(d_dots + n, d_alike);
    }
  });
  const T d_strength = sum_of<T>(d_strengths);
  if (scheme.strength) d_emitted[scheme.strength_at()] = d_strength;
  return scheme.cosine ? strength * d_strength * squared : T(0);
}

}  // namespace memnets
