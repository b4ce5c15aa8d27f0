// Convolution, bias and activation in one: checks, shares the work between torch's threads, registers.

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>

#include "conv.h"
#include "tensors.h"

namespace ops {
namespace {

constexpr int64_t strip_bytes = 512 * 1024;  // of input: it stays in a core's second-level cache

// Whether the processor has AMX for bf16 beside AVX-512, and the system lets it be used.
bool find() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  __builtin_cpu_init();
  constexpr unsigned tiles_and_bf16 = 1u << 24 | 1u << 22;
  const bool has = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                   __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5) &&  // AVX-512's bf16
                   __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tiles_and_bf16) == tiles_and_bf16;
  return has && amx::allowed();
#else
  return false;
#endif
}

bool present() {  // found once: a virtual machine takes 20 microseconds to answer
  static const bool found = find();
  return found;
}

// First in every operator: what amx_conv.cpp holds is compiled for such a processor, whether it multiplies or not.
void check_present() { STD_TORCH_CHECK(present(), "conv_act and conv_pack want a processor with AMX"); }

int64_t filter_blocks(const Conv& conv) { return (conv.filters + amx::filter_block - 1) / amx::filter_block; }

// How a convolution is cut into parts: into strips of rows, and where there is one strip only, into ranges of filters.
struct Cut {
  int64_t strips, rows, ranges, blocks;  // of every image; rows a strip, filter blocks a range

  Cut(const Conv& conv, int64_t threads) {
    const int64_t height = conv.out_height(), all = filter_blocks(conv);
    rows = std::clamp<int64_t>(strip_bytes / amx::row_bytes(conv), 1, height);
    strips = (height + rows - 1) / rows;
    ranges = conv.batch * strips < threads ? std::min(threads, all) : 1;
    if (ranges == 1) strips = std::min((strips + threads - 1) / threads * threads, height);  // as many a thread
    rows = (height + strips - 1) / strips;
    strips = (height + rows - 1) / rows;
    blocks = (all + ranges - 1) / ranges;
    ranges = (all + blocks - 1) / blocks;
  }
};

// A thread's buffer, kept until the thread ends or needs a larger one.
void* buffer_of(int64_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<void, Free> buffer;
  thread_local int64_t size = 0;
  if (size < bytes) {
    const int64_t page = 4096, wanted = (bytes + page - 1) / page * page;
    buffer.reset(std::aligned_alloc(page, wanted));
    size = buffer ? wanted : 0;
    STD_TORCH_CHECK(buffer, "no memory for a convolution's buffer of ", wanted, " bytes");
  }
  return buffer.get();
}

Conv geometry(const Tensor& x, int64_t filters, int64_t kernel, int64_t stride, int64_t padding) {
  STD_TORCH_CHECK(x.dim() == 4 && x.scalar_type() == ScalarType::BFloat16 && is_channels_last(x),
                  "conv_act wants a channels_last bfloat16 x of 4 dimensions");
  const Conv conv{x.size(0), x.size(2), x.size(3), x.size(1), filters, kernel, stride, padding};
  const bool sane = filters > 0 && kernel > 0 && kernel <= 8 && stride > 0 && padding >= 0 && padding < kernel;
  STD_TORCH_CHECK(sane && conv.height + 2 * padding >= kernel && conv.width + 2 * padding >= kernel,
                  "conv_act wants a kernel of at most 8, less padding than that, and an input that is not smaller");
  return conv;
}

Tensor new_result(const Tensor& x, const Conv& conv) {
  const int64_t height = conv.out_height(), width = conv.out_width(), filters = conv.filters;
  const int64_t sizes[] = {conv.batch, filters, height, width};
  const int64_t strides[] = {height * width * filters, 1, width * filters, filters};
  return new_strided(x, 4, sizes, strides);
}

// Weights are read once an image: large pages make that half as long. A hint, so that failing does not matter.
void ask_for_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// The weights of a convolution (filters, channels, kernel, kernel) in the order that conv_act wants.
Tensor conv_pack(const Tensor& weights) {
  check_present();
  const bool fits = weights.dim() == 4 && weights.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(fits && weights.size(2) == weights.size(3),
                  "conv_pack wants square bfloat16 weights of 4 dimensions");
  const int64_t kernel = weights.size(2);
  const Conv conv{1, kernel, kernel, weights.size(1), weights.size(0), kernel, 1, 0};
  const Tensor dense = torch::stable::contiguous(weights);
  Tensor packed = torch::stable::new_empty(weights, {amx::packed_values(conv)}, ScalarType::BFloat16);
  ask_for_large_pages(packed.mutable_data_ptr(), packed.numel() * packed.element_size());
  amx::pack(conv, dense.const_data_ptr(), packed.mutable_data_ptr());
  return packed;
}

Tensor conv_act(const Tensor& x, const Tensor& weights, MaybeTensor bias, MaybeTensor added, int64_t filters,
                int64_t kernel, int64_t stride, int64_t padding, int64_t activation_code) {
  check_present();
  const Conv conv = geometry(x, filters, kernel, stride, padding);
  const Activation activation = activation_of(activation_code);
  STD_TORCH_CHECK(weights.numel() == amx::packed_values(conv) && weights.is_contiguous() &&
                      weights.scalar_type() == ScalarType::BFloat16,
                  "conv_act wants packed bfloat16 weights, ", amx::packed_values(conv), " in all");
  Tensor y = new_result(x, conv);
  if (added) check_pair(y, *added, "what is added", "the result's");
  const MaybeTensor addend = added ? MaybeTensor(laid_out_as(y, *added)) : std::nullopt;
  const MaybeTensor shift = bias ? MaybeTensor(channel_values(y, *bias, "bias")) : std::nullopt;
  const float* shifts = shift ? static_cast<const float*>(shift->const_data_ptr()) : nullptr;
  const void* addends = addend ? addend->const_data_ptr() : nullptr;
  const Cut cut(conv, torch::stable::get_num_threads());
  const int64_t all = filter_blocks(conv);
  torch::stable::parallel_for(0, conv.batch * cut.strips * cut.ranges, 1, [&](int64_t begin, int64_t end) {
    void* buffer = buffer_of(amx::buffer_bytes(conv, cut.rows));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t strip = i / cut.ranges % cut.strips, range = i % cut.ranges;
      const int64_t row = strip * cut.rows, block = range * cut.blocks;
      const Part part{i / (cut.ranges * cut.strips), row, std::min(row + cut.rows, conv.out_height()), block,
                      std::min(block + cut.blocks, all)};
      amx::conv_act(conv, activation, x.const_data_ptr(), weights.const_data_ptr(), shifts, addends,
                    y.mutable_data_ptr(), part, buffer);
    }
  });
  return y;
}

}  // namespace
}  // namespace ops

// Whether this processor takes conv_act.
extern "C" __attribute__((visibility("default"))) int ops_has_conv_act() { return ops::present(); }

STABLE_TORCH_LIBRARY_IMPL(yolov4_mish, CPU, m) {
  m.impl("conv_act", TORCH_BOX(&ops::conv_act));
  m.impl("conv_pack", TORCH_BOX(&ops::conv_pack));
}
