// Addressing of one head (NTM paper, section 3.3): from what the controller emits to weights over the slots.
#pragma once

#include <limits>
#include <vector>

#include "matrix.h"
#include "vector_math.h"

namespace memnets {

constexpr double NORM_EPSILON = 1e-8;      // under the square roots of the cosine
constexpr double SHARPEN_EPSILON = 1e-16;  // under the logarithm of the sharpening

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
  // Rows of slots kept for the backward pass: similarity and content weights, weights before sharpening.
  int64_t num_traces() const { return (key ? 2 : 0) + (sharpening ? 1 : 0); }
};

// Raw interface -> emitted: key tanh, strength softplus, gate sigmoid, shift softmax, sharpening 1 + softplus.
template <class T>
inline void emit(const HeadScheme& scheme, const T* MEMNETS_RESTRICT raw, T* MEMNETS_RESTRICT emitted) {
  if (scheme.key)
    MEMNETS_SIMD for (int64_t w = 0; w < scheme.word; w++) emitted[w] = hyperbolic_tangent(raw[w]);
  if (scheme.strength) emitted[scheme.strength_at()] = softplus(raw[scheme.strength_at()]);
  if (scheme.gate) emitted[scheme.gate_at()] = sigmoid(raw[scheme.gate_at()]);
  if (scheme.shift_width) {
    const T* from = raw + scheme.shift_at();
    T* shift = emitted + scheme.shift_at();
    const T highest = *std::max_element(from, from + scheme.shift_width);
    T total = 0;
    for (int64_t j = 0; j < scheme.shift_width; j++) total += shift[j] = exponential(from[j] - highest);
    for (int64_t j = 0; j < scheme.shift_width; j++) shift[j] /= total;
  }
  if (scheme.sharpening) emitted[scheme.sharpening_at()] = T(1) + softplus(raw[scheme.sharpening_at()]);
}

template <class T>
inline void emit_backward(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted,
                          const T* MEMNETS_RESTRICT d_emitted, T* MEMNETS_RESTRICT d_raw) {
  if (scheme.key)
    MEMNETS_SIMD for (int64_t w = 0; w < scheme.word; w++) d_raw[w] = d_emitted[w] * (T(1) - emitted[w] * emitted[w]);
  if (scheme.strength) {
    const int64_t i = scheme.strength_at();
    d_raw[i] = d_emitted[i] * softplus_slope(emitted[i]);
  }
  if (scheme.gate) {
    const int64_t i = scheme.gate_at();
    d_raw[i] = d_emitted[i] * emitted[i] * (T(1) - emitted[i]);
  }
  if (scheme.shift_width) {
    const int64_t first = scheme.shift_at(), end = first + scheme.shift_width;
    T mean = 0;
    for (int64_t i = first; i < end; i++) mean += emitted[i] * d_emitted[i];
    for (int64_t i = first; i < end; i++) d_raw[i] = emitted[i] * (d_emitted[i] - mean);
  }
  if (scheme.sharpening) {
    const int64_t i = scheme.sharpening_at();
    d_raw[i] = d_emitted[i] * softplus_slope(emitted[i] - T(1));
  }
}

// Softmax of `scores`, which is overwritten, into `weights`.
template <class T>
inline void softmax(T* MEMNETS_RESTRICT scores, T* MEMNETS_RESTRICT weights, int64_t size) {
  T highest = scores[0];
#pragma omp simd reduction(max : highest)
  for (int64_t n = 0; n < size; n++) highest = scores[n] > highest ? scores[n] : highest;
  MEMNETS_SIMD for (int64_t n = 0; n < size; n++) weights[n] = exponential(scores[n] - highest);
  const T factor = T(1) / sum(weights, size);
  MEMNETS_SIMD for (int64_t n = 0; n < size; n++) weights[n] *= factor;
}

// Working space of one thread for heads over `slots` slots.
template <class T>
struct AddressScratch {
  AddressScratch(int64_t slots, int64_t shift_width)
      : interpolated(slots + shift_width), d_shifted(slots + shift_width), d_interpolated(slots), scores(slots) {}
  std::vector<T> interpolated, d_shifted, d_interpolated, scores;
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
  MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) result[n] = previous[n] + gate * (content[n] - previous[n]);
}

// What sharpening takes the logarithm of.
template <class T>
inline T sharpened(T weight) {
  return (weight < T(0) ? T(0) : weight) + T(SHARPEN_EPSILON);
}

// Weights of one head over the slots (equations 5 to 9), from the dot products of its key with every slot.
//
// `inverse_norms` 1/|M(n)|, read for the cosine only; `traces` receives what the backward pass needs.
template <class T>
inline void address(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted, const T* MEMNETS_RESTRICT dots,
                    const T* MEMNETS_RESTRICT inverse_norms, const T* MEMNETS_RESTRICT previous,
                    T* MEMNETS_RESTRICT traces, T* MEMNETS_RESTRICT weights, AddressScratch<T>& scratch,
                    int64_t slots) {
  T* content = traces + slots;
  if (scheme.key) {
    T* MEMNETS_RESTRICT similarity = traces;
    T* MEMNETS_RESTRICT scores = scratch.scores.data();
    const T strength = scheme.strength ? emitted[scheme.strength_at()] : T(1);
    if (scheme.cosine) {
      const T key_norm = T(1) / std::sqrt(dot(emitted, emitted, scheme.word) + T(NORM_EPSILON));
      MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) similarity[n] = dots[n] * key_norm * inverse_norms[n];
    } else {
      std::copy_n(dots, slots, similarity);
    }
    MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) scores[n] = strength * similarity[n];
    softmax(scores, content, slots);
  }
  const int64_t half = scheme.shift_width / 2;
  T* ring = scratch.interpolated.data();
  interpolate(scheme, emitted, content, previous, ring + half, slots);
  T* MEMNETS_RESTRICT shifted = scheme.sharpening ? traces + (scheme.key ? 2 * slots : 0) : weights;
  if (scheme.shift_width) {  // w'(n) = sum_j shift(j) w(n - (j - half)), slots in a ring (equation 8)
    continue_ring(ring, slots, half);
    std::fill_n(shifted, slots, T(0));
    for (int64_t j = 0; j < scheme.shift_width; j++)
      add_scaled(shifted, ring + 2 * half - j, emitted[scheme.shift_at() + j], slots);
  } else {
    std::copy_n(ring, slots, shifted);
  }
  if (scheme.sharpening) {  // w(n)^sharpening, normalised, as a softmax of logarithms (equation 9)
    const T sharpening = emitted[scheme.sharpening_at()];
    T* MEMNETS_RESTRICT scores = scratch.scores.data();
    MEMNETS_SIMD for (int64_t n = 0; n < slots; n++)
      scores[n] = sharpening * logarithm(sharpened(shifted[n]));
    softmax(scores, weights, slots);
  }
}

// Gradient of `address`, from that of its weights (`d_weights`, overwritten).
//
// `d_previous` receives the gradient of the previous weights, `d_emitted` those of all the head emits but its key.
// `d_dots` receives that of the dot products. A cosine also depends on the norms: `d_norms` grows by
// dK(n) K(n) / |M(n)|^2, which times -M(n) is what the norm of slot n adds to the memory's gradient; returned is
// sum_n dK(n) K(n) / |key|^2, which times -key is what the key's norm adds to the key's.
template <class T>
inline T address_backward(const HeadScheme& scheme, const T* MEMNETS_RESTRICT emitted,
                          const T* MEMNETS_RESTRICT inverse_norms, const T* MEMNETS_RESTRICT previous,
                          const T* MEMNETS_RESTRICT traces, const T* MEMNETS_RESTRICT weights,
                          T* MEMNETS_RESTRICT d_weights, T* MEMNETS_RESTRICT d_previous, T* MEMNETS_RESTRICT d_emitted,
                          T* MEMNETS_RESTRICT d_dots, T* MEMNETS_RESTRICT d_norms, AddressScratch<T>& scratch,
                          int64_t slots) {
  const int64_t half = scheme.shift_width / 2;
  T* MEMNETS_RESTRICT d_shifted = scratch.d_shifted.data() + half;
  if (scheme.sharpening) {
    const T* MEMNETS_RESTRICT shifted = traces + (scheme.key ? 2 * slots : 0);
    const T sharpening = emitted[scheme.sharpening_at()], mean = dot(weights, d_weights, slots);
    T* MEMNETS_RESTRICT logs = scratch.scores.data();
    MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) {
      const T base = sharpened(shifted[n]);
      logs[n] = logarithm(base);
      d_weights[n] = weights[n] * (d_weights[n] - mean);
      d_shifted[n] = shifted[n] < T(0) ? T(0) : sharpening * d_weights[n] / base;
    }
    d_emitted[scheme.sharpening_at()] = dot(d_weights, logs, slots);
  } else {
    std::copy_n(d_weights, slots, d_shifted);
  }
  const T* content = traces + slots;
  T* MEMNETS_RESTRICT d_interpolated = scratch.d_interpolated.data();
  if (scheme.shift_width) {
    T* ring = scratch.interpolated.data();
    interpolate(scheme, emitted, content, previous, ring + half, slots);
    continue_ring(ring, slots, half);
    continue_ring(d_shifted - half, slots, half);
    std::fill_n(d_interpolated, slots, T(0));
    for (int64_t j = 0; j < scheme.shift_width; j++) {
      d_emitted[scheme.shift_at() + j] = dot(d_shifted, ring + 2 * half - j, slots);
      add_scaled(d_interpolated, d_shifted - half + j, emitted[scheme.shift_at() + j], slots);
    }
  } else {
    std::copy_n(d_shifted, slots, d_interpolated);
  }
  if (!scheme.key) {
    std::copy_n(d_interpolated, slots, d_previous);
    return T(0);
  }
  const T gate = scheme.gate ? emitted[scheme.gate_at()] : T(1);
  const T d_gate_content = dot(d_interpolated, content, slots), mean = gate * d_gate_content;
  if (scheme.gate) d_emitted[scheme.gate_at()] = d_gate_content - dot(d_interpolated, previous, slots);
  const T* MEMNETS_RESTRICT similarity = traces;
  const T strength = scheme.strength ? emitted[scheme.strength_at()] : T(1);
  MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) {
    d_previous[n] = (T(1) - gate) * d_interpolated[n];
    d_dots[n] = content[n] * (gate * d_interpolated[n] - mean);  // of the softmax's scores, so far
  }
  const T d_strength = dot(d_dots, similarity, slots);
  if (scheme.strength) d_emitted[scheme.strength_at()] = d_strength;
  if (!scheme.cosine) {
    MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) d_dots[n] *= strength;
    return T(0);
  }
  const T squared = T(1) / (dot(emitted, emitted, scheme.word) + T(NORM_EPSILON));
  const T key_norm = std::sqrt(squared);
  MEMNETS_SIMD for (int64_t n = 0; n < slots; n++) {
    const T d_cosine = strength * d_dots[n], inverse = inverse_norms[n];
    d_norms[n] += d_cosine * similarity[n] * inverse * inverse;
    d_dots[n] = d_cosine * key_norm * inverse;
  }
  return strength * d_strength * squared;
}

}  // namespace memnets
