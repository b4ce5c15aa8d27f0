// Tensors as the kernels want them: dense, in one of two memory formats, parameters in the type of the arithmetic.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>

#include "extent.h"

namespace ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    case ScalarType::Half: return Dtype::float16;
    default: break;
  }
  STD_TORCH_CHECK(false, "the fused operators know float32, float64, bfloat16 and float16; convert the tensor first");
}

// Half types are computed and accumulated in float.
inline ScalarType compute_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Activation activation_of(int64_t code) {
  STD_TORCH_CHECK(code >= 0 && code <= static_cast<int64_t>(Activation::identity), "no activation has the code ", code);
  return static_cast<Activation>(code);
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// `x` itself where its memory runs like `like`'s, otherwise a copy that does.
inline Tensor laid_out_as(const Tensor& like, const Tensor& x) {
  if (same_layout(like, x)) return x;
  Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, x);
}

inline void check_pair(const Tensor& x, const Tensor& other, const char* name, const char* of = "the input's") {
  bool same = x.dim() == other.dim() && x.scalar_type() == other.scalar_type() && x.device() == other.device();
  for (int64_t d = 0; same && d < x.dim(); ++d) same = x.size(d) == other.size(d);
  STD_TORCH_CHECK(same, name, " must have ", of, " shape, dtype and device");
}

// Whether the memory of (N, C, ...) runs with the channels innermost: every other dimension in order, then C.
inline bool is_channels_last(const Tensor& x) {
  int64_t expected = 1;
  const auto follows = [&](int64_t d) {
    const bool fits = x.size(d) <= 1 || x.stride(d) == expected;
    expected *= x.size(d);
    return fits;
  };
  bool fits = follows(1);
  for (int64_t d = x.dim() - 1; d >= 2; --d) fits = fits && follows(d);
  return fits && follows(0);
}

// An uninitialised tensor of `like`'s dtype and device, without asking the dispatcher by name, which takes as long as the
// rest of a call on a small tensor.
inline Tensor new_strided(const Tensor& like, int64_t dims, const int64_t* sizes, const int64_t* strides) {
  int32_t dtype, device, index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes, strides, dtype, device, index, &made));
  return Tensor(made);
}

// torch.empty_like. In the two formats that matter it keeps the strides.
inline Tensor new_like(const Tensor& x) {
  if (!x.is_contiguous() && !(x.dim() == 4 && is_channels_last(x))) return torch::stable::empty_like(x);
  return new_strided(x, x.dim(), x.sizes().data(), x.strides().data());
}

// A batch-normalised tensor in one of the two formats, and how the kernels walk it.
struct Features {
  Tensor x;
  Extent extent;
};

inline Features features_of(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 2, "batch norm wants (N, C, ...), got ", x.dim(), " dimensions");
  int64_t inner = 1;
  for (int64_t d = 2; d < x.dim(); ++d) inner *= x.size(d);
  const int64_t batch = x.size(0), channels = x.size(1);
  if (!x.is_contiguous() && is_channels_last(x)) return {x, {batch * inner, channels, 1}};
  return {torch::stable::contiguous(x), {batch, channels, inner}};
}

inline Tensor channel_values(const Tensor& x, const Tensor& values, const char* name) {
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == x.size(1), name, " must hold one value a channel, ",
                  x.size(1), " in all");
  STD_TORCH_CHECK(values.device() == x.device(), name, " must lie on the input's device");
  const Tensor typed = values.scalar_type() == compute_type(x) ? values : torch::stable::to(values, compute_type(x));
  return torch::stable::contiguous(typed);
}

inline MaybeTensor channel_values(const Tensor& x, const MaybeTensor& values, const char* name) {
  return values ? MaybeTensor(channel_values(x, *values, name)) : std::nullopt;
}

// Running statistics are written where they lie, so they must already be what channel_values would make.
inline void check_running(const Tensor& x, const MaybeTensor& running) {
  if (!running) return;
  const bool fits = running->dim() == 1 && running->size(0) == x.size(1) && running->is_contiguous() &&
                    running->scalar_type() == compute_type(x) && running->device() == x.device();
  STD_TORCH_CHECK(fits, "running statistics must be one contiguous value a channel, float32 (float64 for float64)");
}

// An uninitialised (count,) tensor beside `x`, in the type of the arithmetic.
inline Tensor new_values(const Tensor& x, int64_t count) {
  return torch::stable::new_empty(x, {count}, compute_type(x));
}

}  // namespace ops
