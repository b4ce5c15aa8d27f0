// Hue, saturation and exposure of RGB bytes, in place: one pass in float, rounded once at its end.
#include "colour.h"

namespace {

FOR_ANY_CPU void shift_row(std::uint8_t* row, std::size_t width, Shift shift) {
    Planes planes;
    for (std::size_t start = 0; start < width; start += kBlock) {
        const std::size_t count = std::min(kBlock, width - start);
        split(row + 3 * start, planes, count);
        shift_planes(planes, count, shift);
        join(planes, row + 3 * start, count);
    }
}

}  // namespace

// Rows of `width` pixels lie `stride` bytes apart. `turn` is in sixths of a turn, 0 to 6.
extern "C" void shift_colours(std::uint8_t* pixels, std::size_t height, std::size_t width, std::size_t stride, float turn,
                              float saturation, float exposure) {
    for (std::size_t y = 0; y < height; ++y) shift_row(pixels + y * stride, width, {turn, saturation, exposure});
}
