// The CUDA side of the operators: launch shapes, dispatch, registration.

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <algorithm>
#include <tuple>

#define OPS_ISA device
#include "cuda_kernels.cuh"
#include "tensors.h"

namespace ops {
namespace {

using device::acc_t;
using device::threads;

// The tensor's device made current, and torch's stream on it.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;
  int processors = 0;

  explicit Launch(const Tensor& x) : guard(x.get_device_index()) {
    void* found = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &found));
    stream = static_cast<cudaStream_t>(found);
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, x.get_device_index()));
  }
};

template <class T>
struct Type {
  using type = T;
};

template <class Call>
void for_dtype(Dtype dtype, Call call) {
  switch (dtype) {
    case Dtype::float32: return call(Type<float>{});
    case Dtype::float64: return call(Type<double>{});
    case Dtype::bfloat16: return call(Type<__nv_bfloat16>{});
    case Dtype::float16: return call(Type<__half>{});
  }
}

template <class Call>
void for_activation(Activation activation, Call call) {
  switch (activation) {
    case Activation::mish: return call(device::Mish{});
    case Activation::leaky: return call(device::Leaky{});
    case Activation::relu: return call(device::Relu{});
    case Activation::swish: return call(device::Swish{});
    case Activation::identity: return call(device::Identity{});
  }
}

template <class T>
const T* in(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
T* out(const Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

template <class A>
const A* in_or_null(const MaybeTensor& x) {
  return x ? in<A>(*x) : nullptr;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t misalignment(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16; }

// --- elementwise ---------------------------------------------------------------------------------------------

template <class F, int inputs, int outputs>
void elementwise(const Tensor (&ins)[inputs], const Tensor (&outs)[outputs]) {
  const int64_t count = ins[0].numel(), off = misalignment(ins[0]);
  if (count == 0) return;
  bool together = true;  // all tensors reach a multiple of 16 bytes at the same element
  for (const Tensor& x : ins) together = together && misalignment(x) == off;
  for (const Tensor& x : outs) together = together && misalignment(x) == off;
  const Launch launch(ins[0]);
  for_dtype(dtype_of(ins[0]), [&](auto type) {
    using T = typename decltype(type)::type;
    device::Streams<T, F> streams;
    for (int j = 0; j < inputs; ++j) streams.in[j] = in<T>(ins[j]);
    for (int j = 0; j < outputs; ++j) streams.out[j] = out<T>(outs[j]);
    const auto go = [&](auto kernel, int64_t head, int64_t width) {
      const int64_t blocks = divide_up(count, width * threads * device::packs_in_flight);
      kernel<<<std::min<int64_t>(blocks, 1 << 30), threads, 0, launch.stream>>>(streams, head, count);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    };
    const int64_t head = std::min<int64_t>((16 - off) % 16 / sizeof(T), count);
    if (together)
      go(device::elementwise<device::full_width<T>, T, F>, head, device::full_width<T>);
    else
      go(device::elementwise<1, T, F>, 0, 1);
  });
}

Tensor mish(const Tensor& x) {
  Tensor y = torch::stable::empty_like(x);
  elementwise<device::MishForward>({laid_out_as(y, x)}, {y});
  return y;
}

Tensor mish_backward(const Tensor& grad, const Tensor& x) {
  check_pair(x, grad, "the gradient");
  Tensor grad_x = torch::stable::empty_like(x);
  elementwise<device::MishBackward>({laid_out_as(grad_x, grad), laid_out_as(grad_x, x)}, {grad_x});
  return grad_x;
}

// The derivatives of mish_backward in the direction v: with respect to the gradient, and to x.
std::tuple<Tensor, Tensor> mish_double_backward(const Tensor& v, const Tensor& grad, const Tensor& x) {
  check_pair(x, grad, "the gradient");
  check_pair(x, v, "the direction");
  Tensor grad_grad = torch::stable::empty_like(x), grad_x = torch::stable::empty_like(x);
  elementwise<device::MishDoubleBackward>({laid_out_as(grad_x, v), laid_out_as(grad_x, grad), laid_out_as(grad_x, x)},
                                          {grad_grad, grad_x});
  return {grad_grad, grad_x};
}

// --- launch shapes -------------------------------------------------------------------------------------------

int power_of_two_up_to(int64_t wanted, int most) {
  int found = 1;
  while (found < wanted && found < most) found *= 2;
  return found;
}

// How a kernel walks a tensor: block and grid, and the rows (or packs) of one chunk.
struct Walk {
  dim3 grid, block;
  int64_t per_chunk, chunks;
};

Walk split(dim3 grid, dim3 block, int64_t work, int64_t least, int64_t blocks_wanted, int64_t most_chunks) {
  const int64_t wanted = std::clamp<int64_t>(blocks_wanted / std::max(1u, grid.x), 1, most_chunks);
  const int64_t per_chunk = std::max(divide_up(work, wanted), least);
  const int64_t chunks = std::max<int64_t>(divide_up(work, per_chunk), 1);
  grid.y = static_cast<unsigned>(chunks);
  return {grid, block, per_chunk, chunks};
}

// channels_last: threads along x own `width` channels each, threads along y take rows.
Walk walk_rows(Extent extent, int width, int processors, int64_t most_chunks) {
  const int64_t packs = divide_up(extent.channels, width);
  const unsigned x = power_of_two_up_to(packs, 32), y = threads / x;
  const dim3 grid(static_cast<unsigned>(divide_up(packs, x)));
  return split(grid, dim3(x, y), extent.outer, y * 16, processors * 8, most_chunks);
}

Walk walk_channels(Extent extent, int width, int processors) {
  const dim3 grid(static_cast<unsigned>(extent.channels));
  return split(grid, dim3(1, threads), extent.outer * (extent.inner / width), threads * 8, processors * 8, 256);
}

Walk walk_planes(Extent extent, int width) {
  const int64_t planes = extent.outer * extent.channels, packs = extent.inner / width;
  const unsigned x = power_of_two_up_to(std::max<int64_t>(packs / 4, 8), threads), y = threads / x;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(divide_up(planes, y), 1 << 30)),
                  static_cast<unsigned>(std::clamp<int64_t>(divide_up(packs, x * 16), 1, 1024)));
  return {grid, dim3(x, y), 0, 1};
}

// Whether rows (planes) can be moved in whole packs: their length and every tensor's address allow it.
template <class T>
bool in_packs(Extent extent, std::initializer_list<const Tensor*> tensors) {
  bool fits = (extent.inner > 1 ? extent.inner : extent.channels) % device::full_width<T> == 0;
  for (const Tensor* x : tensors) fits = fits && misalignment(*x) == 0;
  return fits;
}

// Sums of `terms` over each channel's elements, in parts: `finish(partial, chunks)` is launched to join them.
template <int width, class Terms, class Finish>
void reduce(const Launch& launch, const Tensor& x, Extent extent, const Terms& terms, Finish finish) {
  using Total = typename Terms::Total;
  const bool planes = extent.inner > 1;
  const Walk walk = planes ? walk_channels(extent, width, launch.processors)
                           : walk_rows(extent, width, launch.processors, 256);
  const int64_t doubles = walk.chunks * extent.channels * sizeof(Total) / sizeof(double);
  const Tensor partial = torch::stable::new_empty(x, {doubles}, ScalarType::Double);
  const auto kernel = planes ? device::reduce_planes<width, Terms> : device::reduce_rows<width, Terms>;
  kernel<<<walk.grid, walk.block, 0, launch.stream>>>(terms, extent, walk.per_chunk, out<Total>(partial));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  finish(in<Total>(partial), walk.chunks, dim3(static_cast<unsigned>(divide_up(extent.channels, 32))), dim3(32, 8));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <int width, class Body>
void over_all(const Launch& launch, Extent extent, const Body& body) {
  if (extent.inner > 1) {
    const Walk walk = walk_planes(extent, width);
    device::over_planes<width, Body><<<walk.grid, walk.block, 0, launch.stream>>>(body, extent);
  } else {
    const Walk walk = walk_rows(extent, width, launch.processors, 65535);
    device::over_rows<width, Body><<<walk.grid, walk.block, 0, launch.stream>>>(body, extent, walk.per_chunk);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Calls call(integral constant) with the widest packs that fit.
template <class T, class Call>
void for_width(bool packs, Call call) {
  if (packs)
    call(std::integral_constant<int, device::full_width<T>>{});
  else
    call(std::integral_constant<int, 1>{});
}

// --- batch norm ----------------------------------------------------------------------------------------------

// In place: running statistics, which may be undefined, move by `momentum` towards the batch's.
std::tuple<Tensor, Tensor> bn_stats(const Tensor& x, MaybeTensor running_mean, MaybeTensor running_var,
                                    double momentum, double eps) {
  const Features features = features_of(x);
  const Extent extent = features.extent;
  check_running(x, running_mean);
  check_running(x, running_var);
  Tensor mean = new_values(x, extent.channels), invstd = new_values(x, extent.channels);
  if (x.numel() == 0) return {mean, invstd};
  const Launch launch(x);
  for_dtype(dtype_of(x), [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const auto finish = [&](const device::Moments* partial, int64_t chunks, dim3 grid, dim3 block) {
      device::finish_moments<A><<<grid, block, 0, launch.stream>>>(
          partial, chunks, extent.channels, momentum, eps, out<A>(mean), out<A>(invstd),
          running_mean ? out<A>(*running_mean) : nullptr, running_var ? out<A>(*running_var) : nullptr);
    };
    for_width<T>(in_packs<T>(extent, {&features.x}), [&](auto width) {
      reduce<width>(launch, x, extent, device::MomentTerms<T>{in<T>(features.x)}, finish);
    });
  });
  return {mean, invstd};
}

// The per-channel tensors a kernel reads, in its type and kept alive together.
struct Parameters {
  Tensor mean, invstd;
  MaybeTensor weight, bias;

  Parameters(const Tensor& x, const Tensor& m, const Tensor& i, const MaybeTensor& w, const MaybeTensor& b)
      : mean(channel_values(x, m, "mean")), invstd(channel_values(x, i, "invstd")),
        weight(channel_values(x, w, "weight")), bias(channel_values(x, b, "bias")) {}

  template <class A>
  device::Affine<A> pointers() const {
    return {in<A>(mean), in<A>(invstd), in_or_null<A>(weight), in_or_null<A>(bias)};
  }
};

// Calls call(type, activation, pack width) for a tensor and those that run beside it.
template <class Call>
void for_features(const Features& features, Activation activation, std::initializer_list<const Tensor*> tensors,
                  Call call) {
  for_dtype(dtype_of(features.x), [&](auto type) {
    using T = typename decltype(type)::type;
    for_width<T>(in_packs<T>(features.extent, tensors),
                 [&](auto width) { for_activation(activation, [&](auto f) { call(type, f, width); }); });
  });
}

Tensor bn_act(const Tensor& x, const Tensor& mean, const Tensor& invstd, MaybeTensor weight, MaybeTensor bias,
              int64_t activation, bool /*training: the derivative depends on it, the value does not*/) {
  const Features features = features_of(x);
  const Parameters params(x, mean, invstd, weight, bias);
  Tensor y = torch::stable::empty_like(features.x);
  if (x.numel() == 0) return y;
  const Launch launch(x);
  for_features(features, activation_of(activation), {&features.x, &y}, [&](auto type, auto f, auto width) {
    using T = typename decltype(type)::type;
    const device::Apply<T, decltype(f)> body{in<T>(features.x), out<T>(y), params.pointers<acc_t<T>>()};
    over_all<width>(launch, features.extent, body);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> bn_act_backward(const Tensor& grad, const Tensor& x, const Tensor& mean,
                                                   const Tensor& invstd, MaybeTensor weight, MaybeTensor bias,
                                                   int64_t activation, bool training) {
  check_pair(x, grad, "the gradient");
  const Features features = features_of(x);
  const Extent extent = features.extent;
  const Tensor dense_grad = laid_out_as(features.x, grad);
  const Parameters params(x, mean, invstd, weight, bias);
  Tensor grad_x = torch::stable::empty_like(features.x);
  Tensor grad_weight = new_values(x, extent.channels), grad_bias = new_values(x, extent.channels);
  if (x.numel() == 0) return {grad_x, torch::stable::zero_(grad_weight), torch::stable::zero_(grad_bias)};
  const Launch launch(x);
  for_features(features, activation_of(activation), {&features.x, &dense_grad, &grad_x},
               [&](auto type, auto f, auto width) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    using F = decltype(f);
    const auto affine = params.pointers<A>();
    const device::GradientTerms<T, F> terms{in<T>(dense_grad), in<T>(features.x), affine};
    reduce<width>(launch, x, extent, terms,
                  [&](const device::TwoSums* partial, int64_t chunks, dim3 grid, dim3 block) {
                    device::finish_gradients<A><<<grid, block, 0, launch.stream>>>(
                        partial, chunks, extent.channels, affine.invstd, out<A>(grad_weight), out<A>(grad_bias));
                  });
    const double share = training ? 1.0 / extent.per_channel() : 0.0;  // fixed statistics pass no gradient on
    const device::ApplyBackward<T, F> body{in<T>(dense_grad), in<T>(features.x), out<T>(grad_x), affine,
                                           in<A>(grad_weight), in<A>(grad_bias), share};
    over_all<width>(launch, extent, body);
  });
  return {grad_x, grad_weight, grad_bias};
}

// In place: x becomes f(x + bias).
void bias_act_(Tensor x, MaybeTensor bias, int64_t activation) {
  const Features features = features_of(x);
  STD_TORCH_CHECK(features.x.const_data_ptr() == x.const_data_ptr(), "bias_act_ wants a contiguous or channels_last x");
  const MaybeTensor shift = channel_values(x, bias, "bias");
  if (x.numel() == 0) return;
  const Launch launch(x);
  for_features(features, activation_of(activation), {&x}, [&](auto type, auto f, auto width) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const device::Apply<T, decltype(f)> body{in<T>(x), out<T>(x), {nullptr, nullptr, nullptr, in_or_null<A>(shift)}};
    over_all<width>(launch, features.extent, body);
  });
}

}  // namespace
}  // namespace ops

STABLE_TORCH_LIBRARY_IMPL(yolov4_mish, CUDA, m) {
  m.impl("mish", TORCH_BOX(&ops::mish));
  m.impl("mish_backward", TORCH_BOX(&ops::mish_backward));
  m.impl("mish_double_backward", TORCH_BOX(&ops::mish_double_backward));
  m.impl("bn_stats", TORCH_BOX(&ops::bn_stats));
  m.impl("bn_act", TORCH_BOX(&ops::bn_act));
  m.impl("bn_act_backward", TORCH_BOX(&ops::bn_act_backward));
  m.impl("bias_act_", TORCH_BOX(&ops::bias_act_));
}
