// Convolution, bias and activation in one pass over bf16, by x86's tile unit (AMX). Compiled with -DOPS_ISA=amx.
//
// A block of results is 32 positions x 32 filters: four tiles of 16 x 16 floats, that stay in the tile unit while the
// sum over channels and taps runs, 32 terms a step. Bias, activation and rounding follow while the block is in the
// nearest cache.
//
// Nothing here may call an inline function of the standard library: the linker could share its AVX copy.

#include "amx_input.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ops::amx {
namespace {

constexpr int64_t block_rows = 2 * tile_rows;
constexpr int64_t many_weights = 1 << 20;  // bytes that the second-level cache does not keep beside a strip

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Configures the tiles while it lives. Denormal floats, a hundred times slower and lost in bf16, are zero meanwhile.
struct TilesInUse {
  const unsigned mode = _mm_getcsr();

  TilesInUse() {
    const TileConfig config;
    _tile_loadconfig(&config);
    _mm_setcsr(mode | 0x8040);
  }
  ~TilesInUse() {
    _mm_setcsr(mode);
    _tile_release();
  }
};

// Fetches memory into the caches, some lines at a time, while something else is computed.
struct Prefetch {
  const char *next, *end;
  int64_t lines;  // a time

  Prefetch(const char* from, int64_t bytes, int64_t times)
      : next(from), end(from + bytes), lines(divided_up(bytes, line * times)) {}

  inline __attribute__((always_inline)) void step() {
    for (int64_t i = 0; i < lines && next < end; ++i, next += line) _mm_prefetch(next, _MM_HINT_T0);
  }
};

// 32 results of each of 32 positions (16, if not `both`) from `at` on, into `block`. Tiles 0 to 3 sum, 4 and 5 hold
// positions, 6 and 7 weights.
template <bool both>
OPS_INLINE void multiply(const Operand& a, int64_t groups, const char* at, const char* weights, Prefetch& prefetch,
                         float* block) {
  _tile_zero(0);
  _tile_zero(1);
  if (both) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t g = 0; g < groups; ++g, at += a.group)
    for (int64_t t = 0; t < a.taps; ++t, weights += 2 * tile_bytes) {
      prefetch.step();
      _tile_loadd(6, weights, line);
      _tile_loadd(4, at + a.tap[t], a.position);
      _tile_loadd(7, weights + tile_bytes, line);
      if (both) _tile_loadd(5, at + a.tap[t] + tile_rows * a.position, a.position);
      _tile_dpbf16ps(0, 4, 6);  // after all loads, which is faster than between them
      _tile_dpbf16ps(1, 4, 7);
      if (both) {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  constexpr int64_t row = filter_block * sizeof(float);
  _tile_stored(0, block, row);
  _tile_stored(1, block + 16, row);
  if (both) {
    _tile_stored(2, block + tile_rows * filter_block, row);
    _tile_stored(3, block + tile_rows * filter_block + 16, row);
  }
}

// What follows the sums of one block of filters: bias, activation and, where there is one, another map to add.
template <class F>
struct Finish {
  Float bias0, bias1;
  const BFloat16* added;  // as y, or null
  BFloat16* y;
  int64_t filters;  // from the block's first to the last of all

  inline __attribute__((always_inline)) void operator()(const float* sums, int64_t at) const {
    Float y0 = activated<BFloat16, F>(load(sums) + bias0), y1 = activated<BFloat16, F>(load(sums + 16) + bias1);
    if (filters >= filter_block) {
      if (added) y0 += load(added + at), y1 += load(added + at + 16);
      store(y + at, y0);
      store(y + at + 16, y1);
      return;
    }
    if (added) y0 += load_up_to(added + at, filters);
    store_up_to(y + at, y0, filters);
    if (filters <= 16) return;
    if (added) y1 += load_up_to(added + at + 16, filters - 16);
    store_up_to(y + at + 16, y1, filters - 16);
  }
};

// The rows of the image that the next strip reads and this one does not.
Prefetch next_input(const Conv& conv, const BFloat16* image, Part part, int64_t times) {
  const int64_t begin = part.row_end * conv.stride - conv.padding + conv.kernel - conv.stride;
  const int64_t end = begin + (part.row_end - part.row_begin) * conv.stride;
  const int64_t from = begin < 0 ? 0 : begin, to = end < conv.height ? end : conv.height;
  const int64_t row = conv.width * conv.channels;
  const int64_t bytes = from < to ? (to - from) * row * static_cast<int64_t>(sizeof(BFloat16)) : 0;
  return {reinterpret_cast<const char*>(image + (bytes ? from * row : 0)), bytes, times};
}

template <class F>
void conv_act(const Conv& conv, const BFloat16* x, const char* weights, const float* bias, const BFloat16* added,
              BFloat16* y, Part part, char* buffer) {
  const BFloat16* image = x + part.image * conv.height * conv.width * conv.channels;
  const Operand a = operand_of(conv, image, part, buffer);
  const int64_t width = conv.out_width(), row = row_positions(conv), positions = (part.row_end - part.row_begin) * row;
  const int64_t terms = groups(conv) * a.taps, block_bytes = terms * 2 * tile_bytes;
  const int64_t blocks = part.block_end - part.block_begin, steps = divided_up(positions, block_rows) * terms;
  // What comes from memory next: the next filters' weights where they are many, else the next strip's input.
  const bool many = blocks * block_bytes > many_weights;
  Prefetch prefetch = many ? Prefetch{nullptr, 0, 1} : next_input(conv, image, part, blocks * steps);
  const int64_t begin = (part.image * conv.out_height() + part.row_begin) * width * conv.filters;

  const TilesInUse in_use;
  alignas(64) float block[block_rows * filter_block];
  for (int64_t b = part.block_begin; b < part.block_end; ++b) {
    const int64_t filter = b * filter_block, filters = conv.filters - filter;
    const Float bias0 = bias ? load_up_to(bias + filter, filters) : Float{};
    const Float bias1 = bias && filters > 16 ? load_up_to(bias + filter + 16, filters - 16) : Float{};
    const Finish<F> finish{bias0, bias1, added, y, filters};
    const char* from = weights + b * block_bytes;
    if (many) prefetch = {from + block_bytes, b + 1 < part.block_end ? block_bytes : 0, steps};
    int64_t out = begin + filter, col = 0;
    for (int64_t p = 0; p < positions; p += block_rows) {
      const int64_t count = positions - p < block_rows ? positions - p : block_rows;
      const char* at = a.data + p * a.position;
      if (reads_in_place(conv) && count % tile_rows) {  // there is nothing to read behind the last position
        std::memcpy(buffer, at, count * a.position);
        at = buffer;
      }
      if (count > tile_rows)
        multiply<true>(a, groups(conv), at, from, prefetch, block);
      else
        multiply<false>(a, groups(conv), at, from, prefetch, block);
      for (int64_t i = 0; i < count; ++i) {
        if (col < width) {
          finish(block + i * filter_block, out);
          out += conv.filters;
        }
        if (++col == row) col = 0;
      }
    }
  }
}

}  // namespace

int64_t packed_values(const Conv& conv) {
  const int64_t taps = gathers(conv) ? 1 : conv.kernel * conv.kernel;
  return divided_up(conv.filters, filter_block) * groups(conv) * taps * channel_group * filter_block;
}

// (filters, channels, kernel, kernel) to [block][group][tap][half a block][pair][filter][of the pair], zeros where
// channels or filters end.
void pack(const Conv& conv, const void* weights, void* packed) {
  const auto from = static_cast<const uint16_t*>(weights);
  auto to = static_cast<uint16_t*>(packed);
  const int64_t square = conv.kernel * conv.kernel, taps = gathers(conv) ? 1 : square;
  const int64_t terms = gathers(conv) ? square * conv.channels : conv.channels;  // a tap's
  const int64_t tiles = packed_values(conv) / (tile_bytes / 2);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t half = tile % 2, tap = tile / 2 % taps, group = tile / (2 * taps) % groups(conv);
    const int64_t block = tile / (2 * taps * groups(conv));
    for (int64_t i = 0; i < tile_bytes / 2; ++i) {
      const int64_t term = group * channel_group + i / 32 * 2 + i % 2;
      const int64_t filter = block * filter_block + half * 16 + i / 2 % 16;
      const int64_t channel = gathers(conv) ? term % conv.channels : term;
      const int64_t place = gathers(conv) ? term / conv.channels : tap;
      const bool exists = term < terms && filter < conv.filters;
      *to++ = exists ? from[(filter * conv.channels + channel) * square + place] : 0;
    }
  }
}

bool allowed() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

int64_t row_bytes(const Conv& conv) { return row_positions(conv) * phases(conv) * groups(conv) * line; }

int64_t buffer_bytes(const Conv& conv, int64_t rows) {
  if (reads_in_place(conv)) return block_rows * conv.channels * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t beyond = (block_rows + conv.kernel) * line;  // the last block may begin with the last position
  return (rows + rows_below(conv)) * row_bytes(conv) + beyond;
}

void conv_act(const Conv& conv, Activation activation, const void* x, const void* weights, const float* bias,
              const void* added, void* y, Part part, void* buffer) {
  with_activation(activation, [&](auto f) {
    conv_act<decltype(f)>(conv, static_cast<const BFloat16*>(x), static_cast<const char*>(weights), bias,
                          static_cast<const BFloat16*>(added), static_cast<BFloat16*>(y), part,
                          static_cast<char*>(buffer));
  });
}

}  // namespace ops::amx
