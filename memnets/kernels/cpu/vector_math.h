// Elementary functions that compilers vectorise: no calls, no branches, NaN stays NaN.
//
// float: range reduction and minimax polynomials (Cephes), within 2 units in the last place, so that nothing depends on
// which vector mathematics library a system has, and -ffast-math (which would drop NaN) isn't needed.
// double: the standard library; it serves tests, where exactness counts and speed doesn't.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define MEMNETS_SIMD _Pragma("omp simd")
#define MEMNETS_RESTRICT __restrict__

namespace memnets {

template <class To, class From>
inline To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

// e^x; below the smallest normal number it stays there, above the largest it is infinite.
inline float exponential(float x) {
  const float clamped = x < -87.3f ? -87.3f : (x > 88.8f ? 88.8f : x);
  const float whole = std::rint(clamped * 1.44269504088896341f);
  const float rest = clamped - whole * 0.693359375f + whole * 2.12194440e-4f;  // log 2 in two parts
  float series = 1.9875691500e-4f;
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  series = series * rest * rest + rest + 1.0f;
  const int32_t exponent = static_cast<int32_t>(whole);
  // In two factors: 2^128 alone is not a float.
  const float low = bits_as<float>(((exponent >> 1) + 127) << 23);
  const float high = bits_as<float>((exponent - (exponent >> 1) + 127) << 23);
  return series * low * high;
}
inline double exponential(double x) { return std::exp(x); }

// log x for positive normal x.
inline float logarithm(float x) {
  const int32_t shifted = bits_as<int32_t>(x) - 0x3f3504f3;  // so that the mantissa lies in [sqrt 1/2, sqrt 2)
  const float exponent = static_cast<float>(shifted >> 23);
  const float f = bits_as<float>((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  float series = 7.0376836292e-2f;
  series = series * f - 1.1514610310e-1f;
  series = series * f + 1.1676998740e-1f;
  series = series * f - 1.2420140846e-1f;
  series = series * f + 1.4249322787e-1f;
  series = series * f - 1.6668057665e-1f;
  series = series * f + 2.0000714765e-1f;
  series = series * f - 2.4999993993e-1f;
  series = series * f + 3.3333331174e-1f;
  const float square = f * f;
  const float tail = series * f * square - exponent * 2.12194440e-4f - 0.5f * square;
  const float result = f + tail + exponent * 0.693359375f;
  return x == x ? result : x;
}
inline double logarithm(double x) { return std::log(x); }

inline float hyperbolic_tangent(float x) {
  const float size = x < 0.0f ? -x : x;
  const float square = x * x;
  float series = -5.70498872745e-3f;
  series = series * square + 2.06390887954e-2f;
  series = series * square - 5.37397155531e-2f;
  series = series * square + 1.33314422036e-1f;
  series = series * square - 3.33332819422e-1f;
  const float small = series * square * x + x;
  const float positive = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
  const float large = x < 0.0f ? -positive : positive;
  return size < 0.625f ? small : large;
}
inline double hyperbolic_tangent(double x) { return std::tanh(x); }

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

// log(1 + e^x), and its derivative from its value: 1 - e^-softplus(x).
template <class T>
inline T softplus(T x) {
  return std::max(x, T(0)) + std::log1p(std::exp(-std::abs(x)));
}
template <class T>
inline T softplus_slope(T value) {
  return -std::expm1(-value);
}

// y += factor * x
template <class T>
inline void add_scaled(T* MEMNETS_RESTRICT y, const T* MEMNETS_RESTRICT x, T factor, int64_t size) {
  MEMNETS_SIMD for (int64_t i = 0; i < size; i++) y[i] += factor * x[i];
}

}  // namespace memnets
