// The activations over the CPU's vectors, and the arithmetic that suffices for bf16.
#pragma once

#include "simd.h"

#include "activation.h"

namespace ops::OPS_ISA {

struct Coarse {
  OPS_FN Float exp(Float x) { return exp_coarse(x); }
  OPS_FN Float ratio(Float a, Float b) { return a * inverse_coarse(b); }
  OPS_FN Float inverse(Float b) { return inverse_coarse(b); }
};
template <>
struct ArithmeticOf<BFloat16> {
  using type = Coarse;
};

// Calls call(F{}) with the activation's type.
template <class Call>
void with_activation(Activation activation, Call call) {
  switch (activation) {
    case Activation::mish: return call(Mish{});
    case Activation::leaky: return call(Leaky{});
    case Activation::relu: return call(Relu{});
    case Activation::swish: return call(Swish{});
    case Activation::identity: return call(Identity{});
  }
}

}  // namespace ops::OPS_ISA
