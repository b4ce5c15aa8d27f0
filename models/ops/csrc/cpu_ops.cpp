// The CPU side of the operators: chooses the instruction set, shares the work between torch's threads, registers.

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cmath>
#include <string_view>
#include <tuple>
#include <vector>

#include "cpu_kernels.h"
#include "tensors.h"

namespace ops {
namespace {

constexpr int64_t grain = 32768;  // elements below which a second thread costs more than it saves

// What this processor can run, the fastest first.
std::vector<const CpuKernels*> available() {
  std::vector<const CpuKernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);  // older compilers do not know its name
  if (v4 && bf16) found.push_back(avx512bf16::kernels());
  if (v4) found.push_back(avx512::kernels());
  if (v3) found.push_back(avx2::kernels());
#endif
  found.push_back(plain::kernels());
  return found;
}

const CpuKernels* active = available()[0];

// Runs body(begin, end) over [0, rows) of `length` elements each.
template <class Body>
void in_parallel(int64_t rows, int64_t length, const Body& body) {
  const int64_t rows_per_task = length >= grain ? 1 : grain / (length < 1 ? 1 : length);
  torch::stable::parallel_for(0, rows, rows_per_task, body);
}

const char* at(const Tensor& x, int64_t element) {
  return static_cast<const char*>(x.const_data_ptr()) + element * x.element_size();
}

char* out_at(const Tensor& x, int64_t element) {
  return static_cast<char*>(x.mutable_data_ptr()) + element * x.element_size();
}

// --- mish ----------------------------------------------------------------------------------------------------

// y = f(x), which run alike through their memory.
void pointwise(const Tensor& x, Activation activation, const Tensor& y) {
  const Dtype dtype = dtype_of(x);
  in_parallel(x.numel(), 1, [&](int64_t begin, int64_t end) {
    active->pointwise(dtype, activation, at(x, begin), out_at(y, begin), end - begin);
  });
}

Tensor mish(const Tensor& x) {
  Tensor y = new_like(x);
  pointwise(laid_out_as(y, x), Activation::mish, y);
  return y;
}

Tensor mish_backward(const Tensor& grad, const Tensor& x) {
  check_pair(x, grad, "the gradient");
  Tensor grad_x = new_like(x);
  const Tensor dense = laid_out_as(grad_x, x), dense_grad = laid_out_as(grad_x, grad);
  const Dtype dtype = dtype_of(x);
  in_parallel(x.numel(), 1, [&](int64_t begin, int64_t end) {
    active->mish_backward(dtype, at(dense_grad, begin), at(dense, begin), out_at(grad_x, begin), end - begin);
  });
  return grad_x;
}

// The derivatives of mish_backward in the direction v: with respect to the gradient, and to x.
std::tuple<Tensor, Tensor> mish_double_backward(const Tensor& v, const Tensor& grad, const Tensor& x) {
  check_pair(x, grad, "the gradient");
  check_pair(x, v, "the direction");
  Tensor grad_grad = new_like(x), grad_x = new_like(x);
  const Tensor dense = laid_out_as(grad_x, x), dense_grad = laid_out_as(grad_x, grad), dense_v = laid_out_as(grad_x, v);
  const Dtype dtype = dtype_of(x);
  in_parallel(x.numel(), 1, [&](int64_t begin, int64_t end) {
    active->mish_double_backward(dtype, at(dense_v, begin), at(dense_grad, begin), at(dense, begin),
                                 out_at(grad_grad, begin), out_at(grad_x, begin), end - begin);
  });
  return {grad_grad, grad_x};
}

// --- batch norm ----------------------------------------------------------------------------------------------

// Sums of one chunk of rows, all channels; chunks do not depend on the number of threads, so neither do results.
struct Chunks {
  int64_t rows, count;
  std::vector<double> first, second;

  explicit Chunks(Extent extent) {
    const int64_t cached = 65536 / (extent.channels < 1 ? 1 : extent.channels);  // 256 KB of floats
    rows = cached < 16 ? 16 : cached;
    count = (extent.outer + rows - 1) / rows;
    first.resize(count * extent.channels);
    second.resize(count * extent.channels);
  }
  int64_t end(int64_t chunk, Extent extent) const { return std::min((chunk + 1) * rows, extent.outer); }
  Sums of(int64_t chunk, Extent extent) {
    return {first.data() + chunk * extent.channels, second.data() + chunk * extent.channels};
  }
};

template <class Body>
void over_chunks(Chunks& chunks, Extent extent, Body body) {
  in_parallel(chunks.count, chunks.rows * extent.channels, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) body(k * chunks.rows, chunks.end(k, extent), chunks.of(k, extent));
  });
}

struct ChannelSums {
  std::vector<double> first, second;

  explicit ChannelSums(int64_t channels) : first(channels), second(channels) {}
  Sums pointers() { return {first.data(), second.data()}; }
};

// Mean and sum of squared deviations of each channel (Chan, Golub and LeVeque's rule joins the chunks).
ChannelSums moments(const Features& features) {
  const auto& [x, extent] = features;
  const Dtype dtype = dtype_of(x);
  const void* data = x.const_data_ptr();
  ChannelSums all(extent.channels);
  if (extent.inner > 1) {
    in_parallel(extent.channels, extent.per_channel(), [&](int64_t begin, int64_t end) {
      active->moments_planes(dtype, data, extent, begin, end, all.pointers());
    });
    return all;
  }
  Chunks chunks(extent);
  over_chunks(chunks, extent, [&](int64_t begin, int64_t end, Sums sums) {
    active->moments_rows(dtype, data, extent, begin, end, sums);
  });
  double count = 0;
  for (int64_t k = 0; k < chunks.count; ++k) {
    const Sums part = chunks.of(k, extent);
    const double n = chunks.end(k, extent) - k * chunks.rows, sum = count + n;
    for (int64_t c = 0; c < extent.channels; ++c) {
      const double delta = part.first[c] - all.first[c];
      all.first[c] += delta * n / sum;
      all.second[c] += part.second[c] + delta * delta * count * n / sum;
    }
    count = sum;
  }
  return all;
}

ChannelSums reduce(const Tensor& grad, const Features& features, Activation activation, Affine affine) {
  const auto& [x, extent] = features;
  const Dtype dtype = dtype_of(x);
  const void *data = x.const_data_ptr(), *grads = grad.const_data_ptr();
  ChannelSums all(extent.channels);
  if (extent.inner > 1) {
    in_parallel(extent.channels, extent.per_channel(), [&](int64_t begin, int64_t end) {
      active->reduce_planes(dtype, activation, grads, data, affine, extent, begin, end, all.pointers());
    });
    return all;
  }
  Chunks chunks(extent);
  over_chunks(chunks, extent, [&](int64_t begin, int64_t end, Sums sums) {
    active->reduce_rows(dtype, activation, grads, data, affine, extent, begin, end, sums);
  });
  for (int64_t k = 0; k < chunks.count; ++k) {
    const Sums part = chunks.of(k, extent);
    for (int64_t c = 0; c < extent.channels; ++c) {
      all.first[c] += part.first[c];
      all.second[c] += part.second[c];
    }
  }
  return all;
}

// Calls body(S{}) with the scalar type the arithmetic of `x` uses.
template <class Body>
void with_compute_type(const Tensor& x, Body body) {
  if (compute_type(x) == ScalarType::Double)
    body(double{});
  else
    body(float{});
}

template <class S>
S* values(const Tensor& x) {
  return static_cast<S*>(x.mutable_data_ptr());
}

template <class S>
S value_or(const MaybeTensor& x, int64_t c, S otherwise) {
  return x ? static_cast<const S*>(x->const_data_ptr())[c] : otherwise;
}

// In place: running statistics, which may be undefined, move by `momentum` towards the batch's.
std::tuple<Tensor, Tensor> bn_stats(const Tensor& x, MaybeTensor running_mean, MaybeTensor running_var,
                                    double momentum, double eps) {
  const Features features = features_of(x);
  const int64_t channels = features.extent.channels, count = features.extent.per_channel();
  check_running(x, running_mean);
  check_running(x, running_var);
  const ChannelSums found = moments(features);
  Tensor mean = new_values(x, channels), invstd = new_values(x, channels);
  with_compute_type(x, [&](auto s) {
    using S = decltype(s);
    for (int64_t c = 0; c < channels; ++c) {
      values<S>(mean)[c] = found.first[c];
      values<S>(invstd)[c] = 1 / std::sqrt(found.second[c] / count + eps);
      if (running_mean) {
        S& m = values<S>(*running_mean)[c];
        m = (1 - momentum) * m + momentum * found.first[c];
      }
      if (running_var) {  // the unbiased estimate, as everywhere in torch
        S& v = values<S>(*running_var)[c];
        v = (1 - momentum) * v + momentum * found.second[c] / (count - 1);
      }
    }
  });
  return {mean, invstd};
}

// The per-channel numbers a kernel reads, kept alive together.
struct Parameters {
  Tensor mean, scale, bias;

  Affine pointers() const { return {mean.const_data_ptr(), scale.const_data_ptr(), bias.const_data_ptr()}; }
};

Parameters parameters(const Tensor& x, const Tensor& mean, const Tensor& invstd, const MaybeTensor& weight,
                      const MaybeTensor& bias) {
  const int64_t channels = x.size(1);
  Parameters out{channel_values(x, mean, "mean"), new_values(x, channels), new_values(x, channels)};
  const Tensor inv = channel_values(x, invstd, "invstd");
  const MaybeTensor gamma = channel_values(x, weight, "weight"), beta = channel_values(x, bias, "bias");
  with_compute_type(x, [&](auto s) {
    using S = decltype(s);
    for (int64_t c = 0; c < channels; ++c) {
      values<S>(out.scale)[c] = values<S>(inv)[c] * value_or<S>(gamma, c, 1);
      values<S>(out.bias)[c] = value_or<S>(beta, c, 0);
    }
  });
  return out;
}

int64_t row_count(Extent extent) { return extent.inner > 1 ? extent.outer * extent.channels : extent.outer; }
int64_t row_length(Extent extent) { return extent.inner > 1 ? extent.inner : extent.channels; }

void apply(const Features& features, Activation activation, Affine affine, const Tensor& y) {
  const auto& [x, extent] = features;
  const Dtype dtype = dtype_of(x);
  in_parallel(row_count(extent), row_length(extent), [&](int64_t begin, int64_t end) {
    active->apply(dtype, activation, x.const_data_ptr(), affine, extent, y.mutable_data_ptr(), begin, end);
  });
}

Tensor bn_act(const Tensor& x, const Tensor& mean, const Tensor& invstd, MaybeTensor weight, MaybeTensor bias,
              int64_t activation, bool /*training: the derivative depends on it, the value does not*/) {
  const Features features = features_of(x);
  const Parameters params = parameters(x, mean, invstd, weight, bias);
  Tensor y = new_like(features.x);
  apply(features, activation_of(activation), params.pointers(), y);
  return y;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                   const Tensor& invstd, MaybeTensor weight, MaybeTensor bias,
                                                   int64_t activation_code, bool training) {
  check_pair(x, grad, "the gradient");
  const Features features = features_of(x);
  const Extent extent = features.extent;
  const Tensor dense_grad = laid_out_as(features.x, grad), inv = channel_values(x, invstd, "invstd");
  const Activation activation = activation_of(activation_code);
  const Parameters params = parameters(x, mean, invstd, weight, bias);
  const ChannelSums sums = reduce(dense_grad, features, activation, params.pointers());

  const int64_t channels = extent.channels;
  Tensor grad_weight = new_values(x, channels), grad_bias = new_values(x, channels);
  const Tensor shift = new_values(x, channels), tilt = new_values(x, channels);
  with_compute_type(x, [&](auto s) {
    using S = decltype(s);
    const double share = training ? 1.0 / extent.per_channel() : 0.0;  // fixed statistics pass no gradient on
    for (int64_t c = 0; c < channels; ++c) {
      const double istd = values<S>(inv)[c];
      values<S>(grad_weight)[c] = sums.second[c] * istd;
      values<S>(grad_bias)[c] = sums.first[c];
      values<S>(shift)[c] = sums.first[c] * share;
      values<S>(tilt)[c] = sums.second[c] * istd * istd * share;
    }
  });
  Tensor grad_x = new_like(features.x);
  const Dtype dtype = dtype_of(x);
  in_parallel(row_count(extent), row_length(extent), [&](int64_t begin, int64_t end) {
    active->apply_backward(dtype, activation, dense_grad.const_data_ptr(), features.x.const_data_ptr(),
                           params.pointers(), shift.const_data_ptr(), tilt.const_data_ptr(), extent,
                           grad_x.mutable_data_ptr(), begin, end);
  });
  return {grad_x, grad_weight, grad_bias};
}

// In place: x becomes f(x + bias).
void bias_act_(Tensor x, MaybeTensor bias, int64_t activation_code) {
  const Features features = features_of(x);
  const Activation activation = activation_of(activation_code);
  STD_TORCH_CHECK(features.x.const_data_ptr() == x.const_data_ptr(), "bias_act_ wants a contiguous or channels_last x");
  if (!bias) return pointwise(x, activation, x);
  const Tensor shift = channel_values(x, *bias, "bias");
  const Extent extent = features.extent;
  const Dtype dtype = dtype_of(x);
  in_parallel(row_count(extent), row_length(extent), [&](int64_t begin, int64_t end) {
    active->bias_act(dtype, activation, x.const_data_ptr(), shift.const_data_ptr(), extent, x.mutable_data_ptr(), begin,
                     end);
  });
}

}  // namespace
}  // namespace ops

// For tests: an instruction set that the processor has, anything else for the fastest. Returns the name.
extern "C" __attribute__((visibility("default"))) const char* ops_use_kernels(const char* name) {
  ops::active = ops::available()[0];
  for (const ops::CpuKernels* kernels : ops::available())
    if (std::string_view(name) == kernels->name) ops::active = kernels;
  return ops::active->name;
}

STABLE_TORCH_LIBRARY_IMPL(yolov4_mish, CPU, m) {
  m.impl("mish", TORCH_BOX(&ops::mish));
  m.impl("mish_backward", TORCH_BOX(&ops::mish_backward));
  m.impl("mish_double_backward", TORCH_BOX(&ops::mish_double_backward));
  m.impl("bn_stats", TORCH_BOX(&ops::bn_stats));
  m.impl("bn_act", TORCH_BOX(&ops::bn_act));
  m.impl("bn_act_backward", TORCH_BOX(&ops::bn_act_backward));
  m.impl("bias_act_", TORCH_BOX(&ops::bias_act_));
}
