// What the convolution kernels are told: the geometry, and which part of the output to make.
#pragma once

#include "extent.h"

namespace ops {

// A convolution without groups of channels or dilation, square, over tensors with their channels innermost.
struct Conv {
  int64_t batch, height, width, channels;
  int64_t filters, kernel, stride, padding;

  int64_t out_height() const { return (height + 2 * padding - kernel) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel) / stride + 1; }
};

// Rows [row_begin, row_end) of one image's output, of the filter blocks [block_begin, block_end).
struct Part {
  int64_t image, row_begin, row_end, block_begin, block_end;
};

// The kernels, in bf16: y = f(conv(x, weights) + bias) + added, with packed weights. `bias` (floats) and `added` may be
// null.
namespace amx {

constexpr int64_t channel_group = 32;  // what one multiplication of tiles sums over
constexpr int64_t filter_block = 32;   // what one block of results holds

bool allowed();  // asks the system; the processor must have it
int64_t packed_values(const Conv&);
void pack(const Conv&, const void* weights, void* packed);

int64_t row_bytes(const Conv&);  // a row of output needs so much of the input
int64_t buffer_bytes(const Conv&, int64_t rows);  // what a part of so many rows needs as a buffer
void conv_act(const Conv&, Activation, const void* x, const void* weights, const float* bias, const void* added,
              void* y, Part, void* buffer);

}  // namespace amx
}  // namespace ops
