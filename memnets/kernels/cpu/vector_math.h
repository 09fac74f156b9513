// Elementary functions of whole vectors: no calls, no branches, NaN stays NaN.
//
// float: range reduction and minimax polynomials (Cephes), within a few units in the last place, so that nothing depends
// on which vector mathematics library a system has, and -ffast-math (which would drop NaN) isn't needed.
// double: the standard library; it serves tests, where exactness counts and speed doesn't.
#pragma once

#include <cmath>

#include "simd.h"

namespace memnets {

template <class T, class Function>
inline Vector<T> elementwise(Vector<T> x, const Function& function) {
  for (int64_t i = 0; i < WIDTH<T>; i++) x[i] = function(x[i]);
  return x;
}

using Floats = Vector<float>;
using Doubles = Vector<double>;
using Integers = Vector<int32_t>;

// 1 / x for normal x.
inline Doubles reciprocal(Doubles x) { return 1.0 / x; }
inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
  const Floats guess = _mm512_rcp14_ps(x);
  return guess + guess * (1.0f - x * guess);  // a Newton step instead of a division
#else
  return 1.0f / x;
#endif
}

// 1 / sqrt(x) for positive normal x.
inline Doubles inverse_root(Doubles x) {
  return 1.0 / elementwise<double>(x, [](double y) { return std::sqrt(y); });
}
inline Floats inverse_root(Floats x) {
#if defined(__AVX512F__)
  const Floats guess = _mm512_rsqrt14_ps(x);
  return guess + guess * (0.5f - 0.5f * x * guess * guess);
#elif defined(__AVX__)
  return 1.0f / (Floats)_mm256_sqrt_ps(x);
#else
  return 1.0f / elementwise<float>(x, [](float y) { return std::sqrt(y); });
#endif
}

// Numbers within bounds; the nearest integers; numbers times 2 to the power of integers.
#if defined(__AVX512F__)
inline Floats within(Floats x, float low, float high) {
  return _mm512_min_ps(spread(high), _mm512_max_ps(spread(low), x));  // in this order NaN stays
}
inline Floats rounded(Floats x) { return _mm512_roundscale_ps(x, 0); }
inline Floats times_power_of_two(Floats x, Floats power) { return _mm512_scalef_ps(x, power); }
#else
#if defined(__AVX__)
inline Floats within(Floats x, float low, float high) {
  return _mm256_min_ps(spread(high), _mm256_max_ps(spread(low), x));  // in this order NaN stays
}
#else
inline Floats within(Floats x, float low, float high) {
  x = x < low ? spread(low) : x;
  return x > high ? spread(high) : x;
}
#endif
inline Floats rounded(Floats x) { return (x + 12582912.0f) - 12582912.0f; }  // 1.5 * 2^23: fractions are rounded away
inline Floats times_power_of_two(Floats x, Floats power) {
  return x * (Floats)((__builtin_convertvector(power, Integers) + 127) << 23);
}
#endif

// e^rest - 1 with rest = x - whole log 2.
inline Floats exponential_series(Floats x, Floats whole) {
  const Floats rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;  // log 2 in two parts
  Floats series = spread(1.9875691500e-4f);
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  return series * rest * rest + rest;
}
// e^x, for x within the range of normal numbers and its nearest end beyond.
inline Floats exponential(Floats x) {
  x = within(x, -87.3f, 88.0f);
  const Floats whole = rounded(x * 1.44269504088896341f);
  return times_power_of_two(exponential_series(x, whole) + 1.0f, whole);
}
inline Doubles exponential(Doubles x) {
  return elementwise<double>(x, [](double y) { return std::exp(y); });
}

// log x for positive normal x.
inline Floats logarithm(Floats x) {
  const Integers shifted = (Integers)x - 0x3f3504f3;  // so that the mantissa lies in [sqrt 1/2, sqrt 2)
  const Floats exponent = __builtin_convertvector(shifted >> 23, Floats);
  const Floats f = (Floats)((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
  Floats series = spread(7.0376836292e-2f);
  series = series * f - 1.1514610310e-1f;
  series = series * f + 1.1676998740e-1f;
  series = series * f - 1.2420140846e-1f;
  series = series * f + 1.4249322787e-1f;
  series = series * f - 1.6668057665e-1f;
  series = series * f + 2.0000714765e-1f;
  series = series * f - 2.4999993993e-1f;
  series = series * f + 3.3333331174e-1f;
  const Floats square = f * f;
  const Floats tail = series * f * square - exponent * 2.12194440e-4f - 0.5f * square;
  const Floats result = f + tail + exponent * 0.693359375f;
  return x == x ? result : x;
}
inline Doubles logarithm(Doubles x) {
  return elementwise<double>(x, [](double y) { return std::log(y); });
}

// From e^2x - 1, which near 0 is the series itself: nothing cancels.
inline Floats hyperbolic_tangent(Floats x) {
  const Floats twice = within(x + x, -40.0f, 40.0f);  // beyond, it is 1
  const Floats whole = rounded(twice * 1.44269504088896341f), power = times_power_of_two(spread(1.0f), whole);
  const Floats grown = power * exponential_series(twice, whole) + (power - 1.0f);
  return grown * reciprocal(grown + 2.0f);
}
inline Doubles hyperbolic_tangent(Doubles x) {
  return elementwise<double>(x, [](double y) { return std::tanh(y); });
}

template <class V>
inline V sigmoid(V x) {
  return reciprocal(exponential(-x) + 1);
}

// log(1 + e^x), and its derivative from its value: 1 - e^-softplus(x).
inline Doubles softplus(Doubles x) {
  return elementwise<double>(x, [](double y) { return std::max(y, 0.0) + std::log1p(std::exp(-std::abs(y))); });
}
inline Floats softplus(Floats x) {
  const Floats small = exponential(x < 0.0f ? x : -x), one_more = 1.0f + small;
  // log(1 + small), with what the sum 1 + small lost to rounding.
  const Floats logarithm_of_sum = logarithm(one_more) + (small - (one_more - 1.0f)) * reciprocal(one_more);
  return (x < 0.0f ? spread(0.0f) : x) + logarithm_of_sum;
}
inline Doubles softplus_slope(Doubles value) {
  return elementwise<double>(value, [](double y) { return -std::expm1(-y); });
}
inline Floats softplus_slope(Floats value) {
  const Floats series = value * (1.0f - value * (0.5f - value * (0.16666667f - value * 0.041666668f)));
  return value < 0.05f ? series : 1.0f - exponential(-value);
}

// The same functions of single numbers.
template <class T>
inline T sigmoid_of(T x) {
  return sigmoid(spread(x))[0];
}
template <class T>
inline T softplus_of(T x) {
  return softplus(spread(x))[0];
}
template <class T>
inline T softplus_slope_of(T value) {
  return softplus_slope(spread(value))[0];
}

}  // namespace memnets
