// The input of a convolution as the tile unit reads it.
//
// A tile's rows must lie at one distance from each other, across the ends of image rows, too. So the input that a part
// of the output needs is copied first, with its padding: [group of 32 channels][phase][position][32 channels].
// Positions run on through the padded rows; those that straddle two rows are computed and dropped. Under a stride of s
// there are s x s phases, each with every s-th row and column, so that neighbours in the output are neighbours here as
// well.
//
// Two kinds are spared that: 1 x 1 convolutions read the input where it lies, and of images, with their few channels, a
// position's taps lie side by side as one group.
#pragma once

#include "conv.h"
#include "cpu_math.h"

namespace ops::amx {
namespace {

constexpr int64_t tile_rows = 16, tile_bytes = 1024, line = 64;  // a tile's row is a line of the cache
constexpr int64_t most_taps = 64;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool gathers(const Conv& conv) {
  return conv.kernel > 1 && conv.kernel * conv.kernel * conv.channels <= channel_group;
}
inline bool reads_in_place(const Conv& conv) {
  return conv.kernel == 1 && conv.stride == 1 && conv.padding == 0 && conv.channels % channel_group == 0;
}
inline int64_t groups(const Conv& conv) { return gathers(conv) ? 1 : divided_up(conv.channels, channel_group); }

// Positions of a row: of the output, or of the padded input in one phase.
inline int64_t row_positions(const Conv& conv) {
  const bool plain = gathers(conv) || reads_in_place(conv);
  return plain ? conv.out_width() : divided_up(conv.width + 2 * conv.padding, conv.stride);
}
inline int64_t phases(const Conv& conv) { return gathers(conv) ? 1 : conv.stride * conv.stride; }
inline int64_t rows_below(const Conv& conv) { return gathers(conv) ? 0 : (conv.kernel - 1) / conv.stride; }

// Where the first operand's tiles lie, in bytes.
struct Operand {
  const char* data;
  int64_t position, group;  // the distances of two positions, two groups
  int64_t taps;
  int64_t tap[most_taps];  // from a position to the input of each tap
};

OPS_INLINE void copy_line(void* to, const void* from, uint32_t mask) {
  _mm512_storeu_si512(to, _mm512_maskz_loadu_epi16(mask, from));
}

// All channels of a pixel, `group` bytes between two groups; zeros where `from` is null.
OPS_INLINE void copy_pixel(char* to, const BFloat16* from, int64_t channels, int64_t group) {
  for (; channels > 0; channels -= channel_group, to += group) {
    const uint32_t mask = channels >= channel_group ? ~0u : (1u << channels) - 1;
    copy_line(to, from, from ? mask : 0);
    if (from) from += channel_group;
  }
}

inline Operand staged(const Conv& conv, const BFloat16* image, Part part, char* buffer) {
  const int64_t s = conv.stride, width = row_positions(conv);
  const int64_t plane = (part.row_end - part.row_begin + rows_below(conv)) * width * line;
  Operand a = {buffer, line, phases(conv) * plane, conv.kernel * conv.kernel, {}};
  for (int64_t i = 0; i < a.taps; ++i) {
    const int64_t down = i / conv.kernel, right = i % conv.kernel;
    a.tap[i] = (down % s * s + right % s) * plane + (down / s * width + right / s) * line;
  }
  const int64_t first = part.row_begin * s - conv.padding;
  const int64_t rows = plane / (width * line) * s;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t h = first + row;
    const BFloat16* from = h >= 0 && h < conv.height ? image + h * conv.width * conv.channels : nullptr;
    for (int64_t phase = 0; phase < s; ++phase) {
      char* to = buffer + (row % s * s + phase) * plane + row / s * width * line;
      for (int64_t q = 0, w = phase - conv.padding; q < width; ++q, w += s, to += line) {
        const bool inside = from && w >= 0 && w < conv.width;
        copy_pixel(to, inside ? from + w * conv.channels : nullptr, conv.channels, a.group);
      }
    }
  }
  return a;
}

// The taps of a row of positions, into `to`, from rows of the image; where a row is null, zeros.
OPS_INLINE void gather_row(const Conv& conv, const BFloat16* const* rows, char* to) {
  const int64_t width = conv.out_width(), row_terms = conv.kernel * conv.channels;
  for (int64_t col = 0; col < width; ++col, to += line) {
    const int64_t w = col * conv.stride - conv.padding;
    uint32_t inside = (uint64_t{1} << row_terms) - 1;
    if (w < 0) inside &= ~0u << -w * conv.channels;
    if (w + conv.kernel > conv.width) inside &= (uint64_t{1} << (conv.width - w) * conv.channels) - 1;
    __m512i taps = _mm512_setzero_si512();
    for (int64_t k = 0, place = 0; k < conv.kernel; ++k, place += row_terms) {
      if (!rows[k]) continue;
      const BFloat16* from = rows[k] + w * conv.channels - place;  // so that the load puts them where they belong
      taps = _mm512_or_si512(taps, _mm512_maskz_loadu_epi16(inside << place, from));
    }
    _mm512_store_si512(to, taps);
  }
}

inline Operand gathered(const Conv& conv, const BFloat16* image, Part part, char* buffer) {
  const BFloat16* rows[channel_group];
  char* to = buffer;
  for (int64_t row = part.row_begin; row < part.row_end; ++row, to += conv.out_width() * line) {
    for (int64_t k = 0; k < conv.kernel; ++k) {
      const int64_t h = row * conv.stride - conv.padding + k;
      rows[k] = h >= 0 && h < conv.height ? image + h * conv.width * conv.channels : nullptr;
    }
    gather_row(conv, rows, to);
  }
  return {buffer, line, 0, 1, {}};
}

inline Operand operand_of(const Conv& conv, const BFloat16* image, Part part, char* buffer) {
  if (gathers(conv)) return gathered(conv, image, part, buffer);
  if (!reads_in_place(conv)) return staged(conv, image, part, buffer);
  const int64_t pixel = conv.channels * static_cast<int64_t>(sizeof(BFloat16));
  return {reinterpret_cast<const char*>(image) + part.row_begin * conv.width * pixel, pixel, line, 1, {}};
}

}  // namespace
}  // namespace ops::amx
