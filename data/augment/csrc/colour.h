// Hue, saturation and exposure of RGB bytes, of planes of floats, in place.
//
// With the largest channel V, the smallest m, C = V - m and the hue h in sixths of a turn (A. R. Smith, "Color gamut
// transform pairs", 1978), a channel is V - C * clamp(min(k, 4 - k), 0, 1), k = (h + n) mod 6, n = 5, 3, 1 for red, green,
// blue. Saturation C / V is scaled and at most 1, V is scaled and at most 255, h turns.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "any_cpu.h"

namespace {

constexpr float kLeast = 1e-3f;      // of a level: for a zero that is divided by
constexpr std::size_t kBlock = 512;  // pixels whose planes stay in the first cache

struct Planes {
    float red[kBlock], green[kBlock], blue[kBlock];
};

// A turn in sixths of the colour circle, 0 to 6, and two factors.
struct Shift {
    float turn, saturation, exposure;
};

inline float channel(float offset, float hue, float value, float chroma) {
    float k = hue + offset;
    k = k >= 6.0f ? k - 6.0f : k;
    return value - chroma * std::max(std::min(std::min(k, 4.0f - k), 1.0f), 0.0f);
}

// `Number` is a byte, or a float that was not rounded yet.
template <typename Number>
inline void split(const Number* __restrict pixels, Planes& planes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        planes.red[i] = pixels[3 * i];
        planes.green[i] = pixels[3 * i + 1];
        planes.blue[i] = pixels[3 * i + 2];
    }
}

inline void shift_planes(Planes& planes, std::size_t count, Shift shift) {
    for (std::size_t i = 0; i < count; ++i) {
        const float r = planes.red[i], g = planes.green[i], b = planes.blue[i];
        const float most = std::max(std::max(r, g), b), spread = most - std::min(std::min(r, g), b);
        const float divisor = std::max(most, kLeast), spread_divisor = std::max(spread, kLeast);  // black, greys
        const float reciprocal = 1.0f / (divisor * spread_divisor);  // one division for both
        const float along = most == r ? g - b : most == g ? b - r : r - g;
        const float sector = most == r ? 0.0f : most == g ? 2.0f : 4.0f;
        float hue = sector + along * (reciprocal * divisor) + shift.turn;  // -1 to 11
        hue = hue < 0.0f ? hue + 6.0f : hue;
        hue = hue >= 6.0f ? hue - 6.0f : hue;
        const float value = std::min(most * shift.exposure, 255.0f);
        const float chroma = value * std::min(spread * shift.saturation * (reciprocal * spread_divisor), 1.0f);
        planes.red[i] = channel(5.0f, hue, value, chroma);
        planes.green[i] = channel(3.0f, hue, value, chroma);
        planes.blue[i] = channel(1.0f, hue, value, chroma);
    }
}

inline void join(const Planes& planes, std::uint8_t* __restrict bytes, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        bytes[3 * i] = static_cast<std::uint8_t>(static_cast<int>(planes.red[i] + 0.5f));
        bytes[3 * i + 1] = static_cast<std::uint8_t>(static_cast<int>(planes.green[i] + 0.5f));
        bytes[3 * i + 2] = static_cast<std::uint8_t>(static_cast<int>(planes.blue[i] + 0.5f));
    }
}

}  // namespace
