// The activations and their derivatives, written once for the CPU's vectors and the GPU's scalars.
//
// V is what one lane group holds: a GCC vector of floats or doubles on the CPU, a plain float or double on the
// GPU. Including files must first give `exp_bounded(V)` (any argument up to 23; 0 far below), `quotient(V, V)` (a / a
// is exactly 1), `reciprocal(V)`, `at_most(V, high)` and `at_least(V, low)`, which keep NaN, `any_below(V, low)` for
// floats, and name their own namespace OPS_ISA: the same templates are compiled for several instruction sets, and the
// linker must never hand an AVX-512 copy to the plain path.
#pragma once

#if defined(__CUDACC__)
#define OPS_FN static __device__ __forceinline__
#else
#define OPS_FN static inline __attribute__((always_inline))
#endif

namespace ops::OPS_ISA {

template <class V>
struct ScalarOf {
  using type = decltype(V{}[0] + 0);
};
template <>
struct ScalarOf<float> {
  using type = float;
};
template <>
struct ScalarOf<double> {
  using type = double;
};
template <class V>
using scalar_t = typename ScalarOf<V>::type;

template <class V>
OPS_FN V splat(double value) {
  return V{} + static_cast<scalar_t<V>>(value);
}

// exp(lowest) is 0: below it the derivative is 0, and -1e38 must not overflow into inf * 0.
template <class S>
constexpr double lowest = sizeof(S) == 4 ? -104.0 : -746.0;

// From here on f(x) is x and f'(x) is 1, to the last bit; exp(2 * highest) is far from overflowing.
template <class S>
constexpr double highest = sizeof(S) == 4 ? 20.0 : 23.0;

// The arithmetic of a type with at least fp16's bits. Including files may give ArithmeticOf<T> another for coarser types.
struct Fine {
  template <class V>
  OPS_FN V exp(V x) {
    return exp_bounded(x);
  }
  template <class V>
  OPS_FN V ratio(V a, V b) {
    return quotient(a, b);
  }
  template <class V>
  OPS_FN V inverse(V b) {
    return reciprocal(b);
  }
};
template <class T>
struct ArithmeticOf {
  using type = Fine;
};
template <class T>
using arithmetic_t = typename ArithmeticOf<T>::type;

// tanh(softplus(x)) = n / (n + 2) with n = e (e + 2), e = exp(x): one exponential, one division.
template <class V>
struct Tanhsp {
  V c;  // x, cut where the result no longer changes
  V e;  // exp(c)
  V r;  // 1 / (n + 2)
  V t;  // tanh(softplus(x))
};

// `c` is cut at `highest`. 1 - 2r is exactly 1 for large x, n r does not cancel for negative x.
template <class A, class V>
OPS_FN Tanhsp<V> tanh_softplus(V c) {
  const V e = A::exp(c);
  const V n = e * e + (e + e);  // one rounding, by a fused multiplication and addition
  const V r = A::inverse(n + splat<V>(2));
  const V t = c > splat<V>(-0.6) ? splat<V>(1) - (r + r) : n * r;
  return {c, e, r, t};
}

template <class V>
OPS_FN V cut_above(V x) {
  return at_most(x, highest<scalar_t<V>>);
}

template <class V>
OPS_FN V cut_both(V x) {
  return at_least(cut_above(x), lowest<scalar_t<V>>);
}

struct Mish {
  static constexpr bool fades = true;  // exponentially, to the left
  template <class A = Fine, class V>
  OPS_FN V value(V x) {  // n + 2 is n for large x
    const V e = A::exp(cut_above(x)), n = e * e + (e + e);
    return x * A::ratio(n, n + splat<V>(2));
  }
  template <class A = Fine, class V>
  OPS_FN V slope(V x) {  // t + 4 x e (e + 1) / d^2
    const auto [c, e, r, t] = tanh_softplus<A>(cut_both(x));
    const V twice = r + r;
    return t + c * ((e * e + e) * (twice * twice));
  }
  // f'' = 8 e (e + 1) / d^2 + 4 x e (2 + 2e - 3e^2 - 2e^3) / d^3; multiplied by r bit by bit, nothing overflows.
  template <class V>
  OPS_FN V curvature(V x) {
    const auto [c, e, r, t] = tanh_softplus<Fine>(cut_both(x));
    const V p = splat<V>(2) + e * (splat<V>(2) - e * (splat<V>(3) + splat<V>(2) * e));
    const V er = e * r;
    return splat<V>(8) * er * ((e + splat<V>(1)) * r) + splat<V>(4) * c * er * (p * r) * r;
  }
};

// F's value for an element of type T. Below -87 exp(x) is denormal, so that its bits run out, while x exp(x), which is Mish
// there, is not: as x exp(x + 44) exp(-44) it keeps them. x + 44 is exact. Half types have no bits to lose.
template <class T, class F, class V>
OPS_FN V activated(V x) {
  const V y = F::template value<arithmetic_t<T>>(x);
  if constexpr (F::fades && sizeof(T) == sizeof(float)) {
    if (__builtin_expect(any_below(x, -87.0), false)) {
      const V small = x * exp_bounded(x + splat<V>(44)) * splat<V>(7.78113224113379652e-20);
      return x < splat<V>(-87) ? small : y;
    }
  }
  return y;
}

// The derivative of F for an element of type T.
template <class T, class F, class V>
OPS_FN V slope_of(V x) {
  return F::template slope<arithmetic_t<T>>(x);
}

struct Leaky {  // Darknet's slope of 0.1
  static constexpr bool fades = false;
  template <class A = Fine, class V>
  OPS_FN V value(V x) {
    return x > V{} ? x : splat<V>(0.1) * x;
  }
  template <class A = Fine, class V>
  OPS_FN V slope(V x) {
    return x > V{} ? splat<V>(1) : splat<V>(0.1);
  }
};

struct Relu {
  static constexpr bool fades = false;
  template <class A = Fine, class V>
  OPS_FN V value(V x) {
    return x <= V{} ? V{} : x;  // NaN stays
  }
  template <class A = Fine, class V>
  OPS_FN V slope(V x) {
    return x <= V{} ? V{} : splat<V>(1);
  }
};

struct Swish {  // as exact as PyTorch's, which loses those bits too
  static constexpr bool fades = false;
  template <class A, class V>
  OPS_FN V sigmoid(V x) {  // exp(-|x|) cannot overflow
    const V e = A::exp(x > V{} ? -x : x);
    return A::ratio(x > V{} ? splat<V>(1) : e, e + splat<V>(1));
  }
  template <class A = Fine, class V>
  OPS_FN V value(V x) {
    return x * sigmoid<A>(x);
  }
  template <class A = Fine, class V>
  OPS_FN V slope(V x) {
    constexpr double low = lowest<scalar_t<V>>;
    const V s = sigmoid<A>(x);
    return s + at_most(at_least(x, low), -low) * s * (splat<V>(1) - s);
  }
};

struct Identity {
  static constexpr bool fades = false;
  template <class A = Fine, class V>
  OPS_FN V value(V x) {
    return x;
  }
  template <class A = Fine, class V>
  OPS_FN V slope(V) {
    return splat<V>(1);
  }
};

}  // namespace ops::OPS_ISA
