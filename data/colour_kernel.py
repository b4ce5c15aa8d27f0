"""Hue, saturation and exposure in one compiled pass, three times as fast as OpenCV's conversions."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.compiler import BuildError, Plan, cache_folder, compiled, cxx_compiler, opened

SOURCE = Path(__file__).parent / "csrc" / "colour.cpp"

_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_NO_SPECIAL_NUMBERS = ("-ffinite-math-only", "-fno-signed-zeros")  # bytes in, bytes out
_X86 = ("-mprefer-vector-width=512",)  # for the clone that a processor with AVX-512 takes
_SIXTHS = 6

Kernel = Callable[[np.ndarray, float, float, float], None]


@functools.cache
def colour_kernel() -> Kernel | None:
    """``kernel(image, hue, saturation, exposure)`` as `data.colour.shift_hsv`, or None, which is said once."""
    try:
        return _loaded()
    except (BuildError, OSError) as error:
        print(f"yolov4: colours are changed by OpenCV, which is slower: {error}", file=sys.stderr, flush=True)
        return None


def _loaded() -> Kernel:
    flags = [*_FLAGS, *_NO_SPECIAL_NUMBERS, *(_X86 if platform.machine() in ("x86_64", "AMD64") else ())]
    key = (SOURCE.read_bytes(), flags, platform.machine(), sys.platform)
    target = cache_folder() / f"colour-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"

    def plan() -> Plan:
        return Plan(cxx_compiler(), [[*flags, "-c", str(SOURCE)]], ["-shared"])

    library = opened(functools.partial(compiled, target, plan, what="the colour augmentation"))
    turn_colours = library.turn_colours
    turn_colours.restype = None
    turn_colours.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 3, *[ctypes.c_float] * 3]

    def kernel(image: np.ndarray, hue: float, saturation: float, exposure: float) -> None:
        assert image.dtype == np.uint8 and image.strides[1:] == (3, 1), "the kernel writes to RGB bytes in rows"
        height, width = image.shape[:2]
        turn_colours(image.ctypes.data, height, width, image.strides[0], hue % 1 * _SIXTHS, saturation, exposure)

    _prove(kernel)
    return kernel


def _prove(kernel: Kernel) -> None:
    """Half a turn of a few colours, whose result is known; a library that fails here is not used."""
    colours = np.array([[[200, 100, 50], [0, 255, 1], [9, 9, 9], [0, 0, 0]]], np.uint8)
    kernel(colours, 0.5, 1.0, 1.0)
    if colours.tolist() != [[[50, 150, 200], [255, 0, 254], [9, 9, 9], [0, 0, 0]]]:
        raise BuildError("the test of its library failed")
