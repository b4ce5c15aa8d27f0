// The arithmetic of one CUDA thread: exponential and quotient in few instructions, elements in packs of 16 bytes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace ops::OPS_ISA {

#define OPS_DEVICE static __device__ __forceinline__

// One instruction that keeps NaN, where the GPU has it (Ampere and later).
OPS_DEVICE float at_most(float x, double high) {
  const float limit = static_cast<float>(high);
#if __CUDA_ARCH__ >= 800
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(limit));
  return x;
#else
  return x >= limit ? limit : x;
#endif
}
OPS_DEVICE float at_least(float x, double low) {
  const float limit = static_cast<float>(low);
#if __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(limit));
  return x;
#else
  return x <= limit ? limit : x;
#endif
}
OPS_DEVICE double at_most(double x, double high) { return x >= high ? high : x; }
OPS_DEVICE double at_least(double x, double low) { return x <= low ? low : x; }

OPS_DEVICE bool any_below(float x, double low) { return x < static_cast<float>(low); }

// 2^(x log2 e) on the special function unit. Its argument is rounded, which for x = -87 costs 6 bits; what the
// rounding lost, and the part of log2 e that a float cannot hold, come back as a first-order correction.
OPS_DEVICE float exp_bounded(float x) {
  constexpr float log2e = 1.44269502f, log2e_rest = 1.92596299e-8f, ln2 = 0.693147181f;
  const float c = at_least(x, -105.0);
  const float t = c * log2e;
  const float lost = fmaf(c, log2e_rest, fmaf(c, log2e, -t));
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(t));
  return fmaf(e, lost * ln2, e);
}
OPS_DEVICE double exp_bounded(double x) { return exp(x); }

// Within one unit of the last place below 2^126, and no denominator here passes 3e17.
OPS_DEVICE float reciprocal(float b) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(b));
  return r;
}
OPS_DEVICE double reciprocal(double b) { return 1 / b; }

// The remainder corrects the product, so that a / a is 1.
OPS_DEVICE float quotient(float a, float b) {
  const float r = reciprocal(b), q = a * r;
  return fmaf(fmaf(-q, b, a), r, q);
}
OPS_DEVICE double quotient(double a, double b) { return a / b; }

// What an element is computed in.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using acc_t = typename Compute<T>::type;

OPS_DEVICE float widen(float x) { return x; }
OPS_DEVICE double widen(double x) { return x; }
OPS_DEVICE float widen(__half x) { return __half2float(x); }
OPS_DEVICE float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

OPS_DEVICE void narrow(float& to, float x) { to = x; }
OPS_DEVICE void narrow(double& to, double x) { to = x; }
OPS_DEVICE void narrow(__half& to, float x) { to = __float2half_rn(x); }
OPS_DEVICE void narrow(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

// `width` neighbouring elements, moved in one instruction. Doubles, which no training uses, go one by one.
template <class T, int width>
struct alignas(sizeof(T) * width) Pack {
  T element[width];
};

template <class T>
constexpr int full_width = sizeof(T) < 8 ? 16 / sizeof(T) : 1;

template <int width, class T>
OPS_DEVICE Pack<T, width> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, width>*>(from);
}

template <int width, class T>
OPS_DEVICE void load(const T* from, acc_t<T> (&to)[width]) {
  const Pack<T, width> pack = load_pack<width>(from);
#pragma unroll
  for (int k = 0; k < width; ++k) to[k] = widen(pack.element[k]);
}

template <int width, class T>
OPS_DEVICE void store(T* to, const acc_t<T> (&from)[width]) {
  Pack<T, width> pack;
#pragma unroll
  for (int k = 0; k < width; ++k) narrow(pack.element[k], from[k]);
  *reinterpret_cast<Pack<T, width>*>(to) = pack;
}

}  // namespace ops::OPS_ISA
