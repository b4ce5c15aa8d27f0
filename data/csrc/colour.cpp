// Hue, saturation and exposure of RGB bytes, in place: one pass in float, rounded once at its end.
//
// With the largest channel V, the smallest m, C = V - m and the hue h in sixths of a turn (A. R. Smith, "Color gamut
// transform pairs", 1978), a channel is V - C * clamp(min(k, 4 - k), 0, 1), k = (h + n) mod 6, n = 5, 3, 1 for red, green,
// blue. Saturation C / V is scaled and at most 1, V is scaled and at most 255, h turns.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "any_cpu.h"

namespace {

constexpr std::size_t kBlock = 512;  // pixels whose planes stay in the first cache

inline float channel(float offset, float hue, float value, float chroma) {
    float k = hue + offset;
    k = k >= 6.0f ? k - 6.0f : k;
    return value - chroma * std::max(std::min(std::min(k, 4.0f - k), 1.0f), 0.0f);
}

FOR_ANY_CPU void turn_row(std::uint8_t* row, std::size_t width, float turn, float saturation, float exposure) {
    float red[kBlock], green[kBlock], blue[kBlock];
    for (std::size_t start = 0; start < width; start += kBlock) {
        const std::size_t count = std::min(kBlock, width - start);
        std::uint8_t* pixels = row + 3 * start;
        for (std::size_t i = 0; i < count; ++i) {
            red[i] = pixels[3 * i];
            green[i] = pixels[3 * i + 1];
            blue[i] = pixels[3 * i + 2];
        }
        for (std::size_t i = 0; i < count; ++i) {
            const float r = red[i], g = green[i], b = blue[i];
            const float most = std::max(std::max(r, g), b), spread = most - std::min(std::min(r, g), b);
            const float divisor = std::max(most, 1.0f), spread_divisor = std::max(spread, 1.0f);  // black, greys
            const float reciprocal = 1.0f / (divisor * spread_divisor);  // one division for both
            const float along = most == r ? g - b : most == g ? b - r : r - g;
            const float sector = most == r ? 0.0f : most == g ? 2.0f : 4.0f;
            float hue = sector + along * (reciprocal * divisor) + turn;  // -1 to 11
            hue = hue < 0.0f ? hue + 6.0f : hue;
            hue = hue >= 6.0f ? hue - 6.0f : hue;
            const float value = std::min(most * exposure, 255.0f);
            const float chroma = value * std::min(spread * saturation * (reciprocal * spread_divisor), 1.0f);
            red[i] = channel(5.0f, hue, value, chroma) + 0.5f;
            green[i] = channel(3.0f, hue, value, chroma) + 0.5f;
            blue[i] = channel(1.0f, hue, value, chroma) + 0.5f;
        }
        for (std::size_t i = 0; i < count; ++i) {
            pixels[3 * i] = static_cast<std::uint8_t>(static_cast<int>(red[i]));
            pixels[3 * i + 1] = static_cast<std::uint8_t>(static_cast<int>(green[i]));
            pixels[3 * i + 2] = static_cast<std::uint8_t>(static_cast<int>(blue[i]));
        }
    }
}

}  // namespace

// Rows of `width` pixels lie `stride` bytes apart. `turn` is in sixths of a turn, 0 to 6.
extern "C" void turn_colours(std::uint8_t* pixels, std::size_t height, std::size_t width, std::size_t stride, float turn,
                             float saturation, float exposure) {
    for (std::size_t y = 0; y < height; ++y) turn_row(pixels + y * stride, width, turn, saturation, exposure);
}
