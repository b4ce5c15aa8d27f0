// Vectors of one instruction set: GCC's vector types, so that the same text becomes AVX-512, AVX2, SSE or NEON.
// OPS_BYTES is the register's width; every element type computes in float, except double.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define OPS_INLINE static inline __attribute__((always_inline))

namespace ops::OPS_ISA {

typedef float Float __attribute__((vector_size(OPS_BYTES)));
typedef double Double __attribute__((vector_size(OPS_BYTES)));
typedef int32_t Int __attribute__((vector_size(OPS_BYTES)));
typedef uint32_t UInt __attribute__((vector_size(OPS_BYTES)));
typedef int64_t Long __attribute__((vector_size(OPS_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(OPS_BYTES / 2)));

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What an element of type T computes in, and how many fit a register then.
template <class T>
struct Compute {
  using vector = Float;
  using scalar = float;
};
template <>
struct Compute<double> {
  using vector = Double;
  using scalar = double;
};
template <class T>
using vector_t = typename Compute<T>::vector;
template <class T>
using acc_t = typename Compute<T>::scalar;
template <class T>
constexpr int64_t lanes = OPS_BYTES / sizeof(acc_t<T>);

constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds, and leaves a whole number in the low bits

template <class To, class From>
OPS_INLINE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Comparisons keep NaN where std::min and std::max would lose it.
template <class V>
OPS_INLINE V at_most(V x, double high) {
  const V limit = V{} + static_cast<decltype(V{}[0] + 0)>(high);
  return x >= limit ? limit : x;
}
template <class V>
OPS_INLINE V at_least(V x, double low) {
  const V limit = V{} + static_cast<decltype(V{}[0] + 0)>(low);
  return x <= limit ? limit : x;
}

// Whether any lane is; NaN is not.
#if defined(__AVX512F__)
OPS_INLINE bool any_below(Float x, double low) {
  return _mm512_cmp_ps_mask(x, Float{} + static_cast<float>(low), _CMP_LT_OQ) != 0;
}
#elif defined(__AVX2__)
OPS_INLINE bool any_below(Float x, double low) {
  return _mm256_movemask_ps(bits_as<__m256>(x < Float{} + static_cast<float>(low))) != 0;
}
#else
OPS_INLINE bool any_below(Float x, double low) {
  const Long below = bits_as<Long>(x < Float{} + static_cast<float>(low));
  return (below[0] | below[1]) != 0;
}
#endif

OPS_INLINE Double reciprocal(Double b) { return 1.0 / b; }
OPS_INLINE Double quotient(Double a, Double b) { return a / b; }

#if defined(__AVX512F__)
// x86's min and max return their second operand where either is NaN.
OPS_INLINE Float at_most(Float x, double high) {
  return _mm512_maskz_min_ps(0xffff, Float{} + static_cast<float>(high), x);
}
OPS_INLINE Float at_least(Float x, double low) {
  return _mm512_maskz_max_ps(0xffff, Float{} + static_cast<float>(low), x);
}

// A division takes as long as ten multiplications; 14 bits and one Newton step are as good for numbers whose
// reciprocal is of normal size.
OPS_INLINE Float reciprocal(Float b) {
  const Float r = _mm512_maskz_rcp14_ps(0xffff, b);
  return r + (1.0f - r * b) * r;
}
// Within 0.53 units of the last place, by the remainder; a / a is exactly 1.
OPS_INLINE Float quotient(Float a, Float b) {
  const Float r = _mm512_maskz_rcp14_ps(0xffff, b), q = a * r;
  return q + (a - q * b) * r;
}

// x 2^k for a whole k, rounded once also where the result is denormal.
OPS_INLINE Float scaled(Float x, Float k) { return _mm512_maskz_scalef_ps(0xffff, x, k); }
#else
OPS_INLINE Float reciprocal(Float b) { return 1.0f / b; }
OPS_INLINE Float quotient(Float a, Float b) { return a / b; }

// 2^k is built 90 too large, so that one multiplication at the end rounds denormal results once.
OPS_INLINE Float scaled(Float x, Float k) {
  return x * bits_as<Float>(bits_as<Int>(k + (round_magic + 127 + 90)) << 23) * 0x1p-90f;
}
#endif

// exp(x) for x <= 25, within one unit in the last place; 0 below the smallest denormal, NaN for NaN.
// x = k ln2 + s; the polynomial is a minimax fit of exp(s) on |s| <= ln2 / 2 (relative error 3e-9, 0.05 ULP).
OPS_INLINE Float exp_bounded(Float x) {
  const Float c = at_least(x, -105.0);
  const Float shifted = c * 1.44269504f + round_magic;
  const Float k = shifted - round_magic;
  const Float s = (c - k * 0.693145752f) - k * 1.42860682e-6f;
  Float p = s * 0.00138145429f + 0.00836874545f;
  p = p * s + 0.0416683890f;
  p = p * s + 0.166665211f;
  p = p * s + 0.499999940f;
  p = p * (s * s) + s + 1.0f;
  return scaled(p, k);
}

// For bfloat16, whose last place is 2^-8 of a number: exp(x) to 2^-13 of itself, by a minimax fit of 2^f on |f| <= 1/2,
// and a / b to 2^-14 where the processor has that.
OPS_INLINE Float exp_coarse(Float x) {
  const Float c = at_least(x, -105.0);
  const Float k = (c * 1.44269504f + round_magic) - round_magic;
  const Float f = c * 1.44269504f - k;
  Float p = f * 0.0551716695f + 0.242611125f;
  p = p * f + 0.693260986f;
  p = p * f + 0.999928073f;
  return scaled(p, k);
}
#if defined(__AVX512F__)
OPS_INLINE Float inverse_coarse(Float b) { return _mm512_maskz_rcp14_ps(0xffff, b); }
#else
OPS_INLINE Float inverse_coarse(Float b) { return 1.0f / b; }
#endif

// The same for double; on |s| <= ln2 / 2 the Taylor series ends at s^13 / 13! with a relative error of 4e-18.
OPS_INLINE Double exp_bounded(Double x) {
  constexpr double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  const Double c = at_least(x, -750.0);
  const Double shifted = c * 1.4426950408889634 + round_magic;
  const Double k = shifted - round_magic;
  const Double s = (c - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;
  Double p = s * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  p = p * s + 1.0 / 39916800.0;
  p = p * s + 1.0 / 3628800.0;
  p = p * s + 1.0 / 362880.0;
  p = p * s + 1.0 / 40320.0;
  p = p * s + 1.0 / 5040.0;
  p = p * s + 1.0 / 720.0;
  p = p * s + 1.0 / 120.0;
  p = p * s + 1.0 / 24.0;
  p = p * s + 1.0 / 6.0;
  p = p * s + 0.5;
  p = p * (s * s) + s + 1.0;
  const Double scale = bits_as<Double>((bits_as<Long>(shifted) + (1023 + 600)) << 52);
  return p * scale * 0x1p-600;
}

template <class V, class T>
OPS_INLINE V load_bits(const T* from) {
  V to;
  std::memcpy(&to, from, sizeof(to));
  return to;
}

OPS_INLINE Float load(const float* p) { return load_bits<Float>(p); }
OPS_INLINE Double load(const double* p) { return load_bits<Double>(p); }
OPS_INLINE void store(float* p, Float v) { std::memcpy(p, &v, sizeof(v)); }
OPS_INLINE void store(double* p, Double v) { std::memcpy(p, &v, sizeof(v)); }

#if defined(__AVX512F__)
OPS_INLINE Float load(const BFloat16* p) {
  return bits_as<Float>(bits_as<UInt>(_mm512_maskz_cvtepu16_epi32(0xffff, load_bits<__m256i>(p))) << 16);
}
#else
OPS_INLINE Float load(const BFloat16* p) {
  return bits_as<Float>(__builtin_convertvector(load_bits<Halves>(p), UInt) << 16);
}
#endif

#if defined(__AVX512BF16__)
OPS_INLINE void store(BFloat16* p, Float v) {  // to nearest, ties to even; denormals become 0
  const __m256bh h = _mm512_maskz_cvtneps_pbh(0xffff, bits_as<__m512>(v));
  std::memcpy(p, &h, sizeof(h));
}
#else
// To nearest, ties to even. Rounding could carry a NaN into inf, so it keeps its bits; arithmetic made it quiet before.
OPS_INLINE void store(BFloat16* p, Float v) {
  const UInt u = bits_as<UInt>(v);
  const UInt half = 0x7fffu + ((u >> 16) & 1u);
  const Halves h = __builtin_convertvector((u + (v == v ? half : UInt{})) >> 16, Halves);
  std::memcpy(p, &h, sizeof(h));
}
#endif

#if defined(__AVX512F__)
OPS_INLINE Float load(const Float16* p) {
  return bits_as<Float>(_mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(p)));
}
OPS_INLINE void store(Float16* p, Float v) {
  const __m256i h = _mm512_maskz_cvtps_ph(0xffff, bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &h, sizeof(h));
}
#elif defined(__F16C__)
OPS_INLINE Float load(const Float16* p) {
  return bits_as<Float>(_mm256_cvtph_ps(load_bits<__m128i>(p)));
}
OPS_INLINE void store(Float16* p, Float v) {
  const __m128i h = _mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT);
  std::memcpy(p, &h, sizeof(h));
}
#else
// Half a float's bits, widened: 2^112 moves the exponent, and does the right thing to denormals.
OPS_INLINE Float load(const Float16* p) {
  const UInt h = __builtin_convertvector(load_bits<Halves>(p), UInt);
  const UInt sign = (h & 0x8000u) << 16;
  const UInt magnitude = (h & 0x7fffu) << 13;
  const Float scaled = bits_as<Float>(magnitude) * 0x1p112f;
  const UInt special = magnitude | 0x7f800000u;  // inf and NaN
  return bits_as<Float>(sign | ((h & 0x7c00u) == 0x7c00u ? special : bits_as<UInt>(scaled)));
}
OPS_INLINE void store(Float16* p, Float v) {
  const UInt u = bits_as<UInt>(v);
  const UInt sign = (u >> 16) & 0x8000u;
  const UInt a = u & 0x7fffffffu;
  // Denormal halves: adding 0.5 lets the float unit round at 2^-24, the half's last place.
  const UInt tiny = bits_as<UInt>(bits_as<Float>(a) + 0.5f) - 0x3f000000u;
  const UInt normal = (a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13;
  const UInt finite = a < 0x38800000u ? tiny : normal;
  const UInt special = a > 0x7f800000u ? UInt{} + 0x7e00u : UInt{} + 0x7c00u;
  const Halves h = __builtin_convertvector(sign | (a >= 0x477ff000u ? special : finite), Halves);
  std::memcpy(p, &h, sizeof(h));
}
#endif

// Up to a whole register: the end of a row, where the other lanes hold zero and are not stored. `count` is a
// constant in the loops that matter.
template <class T>
OPS_INLINE vector_t<T> load_up_to(const T* p, int64_t count) {
  if (count >= lanes<T>) return load(p);
  T padded[lanes<T>] = {};
  std::memcpy(padded, p, count * sizeof(T));
  return load(padded);
}

template <class T>
OPS_INLINE void store_up_to(T* p, vector_t<T> v, int64_t count) {
  if (count >= lanes<T>) return store(p, v);
  T padded[lanes<T>];
  store(padded, v);
  std::memcpy(p, padded, count * sizeof(T));
}

}  // namespace ops::OPS_ISA
