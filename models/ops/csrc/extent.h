// What the kernels of both sides are told about a tensor.
#pragma once

#include <cstdint>

namespace ops {

enum class Dtype { float32, float64, bfloat16, float16 };
enum class Activation { mish, leaky, relu, swish, identity };  // the order of models/ops/extension.py

// A contiguous tensor is outer x channels x inner; a channels_last one has inner 1 and outer counts the rows.
struct Extent {
  int64_t outer, channels, inner;
  int64_t per_channel() const { return outer * inner; }
};

}  // namespace ops
