// The table of CPU kernels that each instruction set fills in (cpu_kernels.cpp, compiled once for each).
//
// Kernels work on ranges, so that the caller decides how to share them between threads, and on two views of a
// batch-normalised tensor: "planes" (contiguous: rows of `inner` elements that share a channel) and "rows"
// (channels_last: rows of `channels` elements, one of each). Sums leave a kernel as doubles.
#pragma once

#include "extent.h"

namespace ops {


// One value a channel each, float (double for float64): z = (x - mean) * scale + bias.
struct Affine {
  const void *mean, *scale, *bias;
};

// Two sums a channel, at [channel] of the arrays given.
struct Sums {
  double *first, *second;
};

struct CpuKernels {
  const char* name;

  // Element ranges; the pointers already point at the range's begin. y may be x.
  void (*pointwise)(Dtype, Activation, const void* x, void* y, int64_t count);
  void (*mish_backward)(Dtype, const void* grad, const void* x, void* grad_x, int64_t count);
  void (*mish_double_backward)(Dtype, const void* v, const void* grad, const void* x, void* grad_grad, void* grad_x,
                               int64_t count);

  // Mean and sum of squared deviations. Planes: of the channels [begin, end), complete. Rows: of every channel
  // over the rows [begin, end).
  void (*moments_planes)(Dtype, const void* x, Extent, int64_t begin, int64_t end, Sums);
  void (*moments_rows)(Dtype, const void* x, Extent, int64_t begin, int64_t end, Sums);

  // sum(dz) and sum(dz * (x - mean)), dz = grad * f'(z), over the same ranges.
  void (*reduce_planes)(Dtype, Activation, const void* grad, const void* x, Affine, Extent, int64_t begin,
                        int64_t end, Sums);
  void (*reduce_rows)(Dtype, Activation, const void* grad, const void* x, Affine, Extent, int64_t begin, int64_t end,
                      Sums);

  // y = f(z), y = f(x + bias); grad_x = scale * (dz - shift - (x - mean) * tilt), with `shift` and `tilt` one value a channel.
  // All walk the rows [begin, end): planes when inner > 1, otherwise rows of channels. y may be x.
  void (*apply)(Dtype, Activation, const void* x, Affine, Extent, void* y, int64_t begin, int64_t end);
  void (*bias_act)(Dtype, Activation, const void* x, const void* bias, Extent, void* y, int64_t begin, int64_t end);
  void (*apply_backward)(Dtype, Activation, const void* grad, const void* x, Affine, const void* shift,
                         const void* tilt, Extent, void* grad_x, int64_t begin, int64_t end);
};

// The tables themselves; on other processors than x86 only the plain one is built.
namespace plain {
const CpuKernels* kernels();
}
namespace avx2 {
const CpuKernels* kernels();
}
namespace avx512 {
const CpuKernels* kernels();
}
namespace avx512bf16 {
const CpuKernels* kernels();
}

}  // namespace ops
