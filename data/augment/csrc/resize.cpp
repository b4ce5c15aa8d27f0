// Bilinear resize of RGB bytes between pixel centres, mirrored and recoloured on the way where that is asked for.
//
// Output pixel x of `target` shows the source at (x + 1/2) * source / target - 1/2, the rim being repeated: two rows are
// mixed into one, then neighbours in it, in float, rounded once. Sources are many and come from memory: the rows that
// will be wanted are fetched in time, a quarter of the whole.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "any_cpu.h"
#include "colour.h"

namespace {

constexpr std::size_t kChannels = 3, kLine = 64;  // bytes of a pixel, of a cache line
constexpr std::size_t kAhead = 3;                 // rows

typedef float Pixel __attribute__((vector_size(16)));  // three channels, and one of the next pixel

// The first of two neighbours and the weight of the second.
struct Tap {
    std::size_t first;
    float weight;
};

Tap tap(std::size_t place, std::size_t target, std::size_t source, bool mirrored) {
    const float seen = static_cast<float>(mirrored ? target - 1 - place : place);
    const float exact = (seen + 0.5f) * source / target - 0.5f;
    const float inside = std::min(std::max(exact, 0.0f), static_cast<float>(source - 1));
    const auto first = static_cast<std::size_t>(inside);
    return {first, inside - first};
}

void fetch(const std::uint8_t* row, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; i += kLine) __builtin_prefetch(row + i);
}

FOR_ANY_CPU void mix_rows(const std::uint8_t* __restrict upper, const std::uint8_t* __restrict lower, float weight,
                          float* __restrict mixed, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        const float above = upper[i], below = lower[i];
        mixed[i] = above + (below - above) * weight;
    }
}

// Each pixel writes four numbers, the last of them anew with the next pixel: `line` has one more than it needs.
FOR_ANY_CPU void mix_neighbours(const float* __restrict row, const Tap* __restrict taps, float* __restrict line,
                                std::size_t width) {
    for (std::size_t x = 0; x < width; ++x) {
        Pixel left, right;
        std::memcpy(&left, row + taps[x].first, sizeof left);
        std::memcpy(&right, row + taps[x].first + kChannels, sizeof right);
        left += (right - left) * taps[x].weight;
        std::memcpy(line + kChannels * x, &left, sizeof left);
    }
}

FOR_ANY_CPU void round_to_bytes(const float* __restrict line, std::uint8_t* __restrict bytes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::uint8_t>(static_cast<int>(line[i] + 0.5f));
}

FOR_ANY_CPU void shift_to_bytes(const float* __restrict line, std::uint8_t* __restrict bytes, std::size_t width,
                                Shift shift) {
    Planes planes;
    for (std::size_t start = 0; start < width; start += kBlock) {
        const std::size_t count = std::min(kBlock, width - start);
        split(line + kChannels * start, planes, count);
        shift_planes(planes, count, shift);
        join(planes, bytes + kChannels * start, count);
    }
}

}  // namespace

// Rows lie `source_stride` and `target_stride` bytes apart; heights and widths are at least 1.
extern "C" void resize_bilinear(const std::uint8_t* source, std::size_t source_height, std::size_t source_width,
                                std::size_t source_stride, std::uint8_t* target, std::size_t height, std::size_t width,
                                std::size_t target_stride, int flip, int flip_vertical, int shifted, float turn,
                                float saturation, float exposure) {
    const std::size_t count = kChannels * source_width;
    std::vector<float> mixed(count + 4), line(kChannels * width + 1);  // the rim's neighbour is read, with weight 0
    std::vector<Tap> taps(width);
    for (std::size_t x = 0; x < width; ++x) {
        taps[x] = tap(x, width, source_width, flip);
        taps[x].first *= kChannels;
    }
    for (std::size_t y = 0; y < height; ++y) {
        if (y + kAhead < height) {
            const std::size_t next = tap(y + kAhead, height, source_height, flip_vertical).first;
            fetch(source + next * source_stride, count);
            if (next + 1 < source_height) fetch(source + (next + 1) * source_stride, count);
        }
        const Tap rows = tap(y, height, source_height, flip_vertical);
        const std::uint8_t* upper = source + rows.first * source_stride;
        mix_rows(upper, rows.weight > 0 ? upper + source_stride : upper, rows.weight, mixed.data(), count);
        mix_neighbours(mixed.data(), taps.data(), line.data(), width);
        if (shifted) shift_to_bytes(line.data(), target + y * target_stride, width, {turn, saturation, exposure});
        else round_to_bytes(line.data(), target + y * target_stride, kChannels * width);
    }
}
