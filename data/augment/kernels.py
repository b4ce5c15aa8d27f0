"""Compiled passes over the pixels of training images: faster than OpenCV's, which serve where nothing compiles."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.compiler import BuildError, Plan, cache_folder, compiled, cxx_compiler, opened

FOLDER = Path(__file__).parent / "csrc"

_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
_NO_SPECIAL_NUMBERS = ("-ffinite-math-only", "-fno-signed-zeros")  # bytes in, bytes out
_X86 = ("-mprefer-vector-width=512",)  # for the clone that a processor with AVX-512 takes
_SIXTHS = 6

Shift = tuple[float, float, float]  # hue, saturation, exposure


class Kernels(NamedTuple):
    """The compiled passes.

    Attributes:
        shift_hsv: ``(image, hue, saturation, exposure)``, as `data.augment.colour.shift_hsv`.
        resize: ``(source, target, flip, flip_vertical, shift)``, as `data.augment.resize.resize_into`; ``shift`` is
            hue, saturation and exposure, or None.
    """

    shift_hsv: Callable[[np.ndarray, float, float, float], None]
    resize: Callable[[np.ndarray, np.ndarray, bool, bool, Shift | None], None]


@functools.cache
def kernels() -> Kernels | None:
    """The compiled passes, or None where they cannot be had, which is said once."""
    try:
        return _loaded()
    except (BuildError, OSError) as error:
        print(f"yolov4: images are made by OpenCV, which is slower: {error}", file=sys.stderr, flush=True)
        return None


def in_rows(image: np.ndarray) -> bool:
    """Whether the kernels can walk over ``image``: RGB bytes, row by row."""
    return image.dtype == np.uint8 and image.shape[2:] == (3,) and image.strides[1:] == (3, 1)


def _loaded() -> Kernels:
    flags = [*_FLAGS, *_NO_SPECIAL_NUMBERS, *(_X86 if platform.machine() in ("x86_64", "AMD64") else ())]
    files = sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])
    key = ([file.read_bytes() for file in files], flags, platform.machine(), sys.platform)
    target = cache_folder() / f"pixels-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.so"

    def plan() -> Plan:
        sources = [str(file) for file in files if file.suffix == ".cpp"]
        return Plan(cxx_compiler(), [[*flags, "-c", source] for source in sources], ["-shared"])

    library = opened(functools.partial(compiled, target, plan, what="the augmentation of images"))
    shift_colours, resize_bilinear = library.shift_colours, library.resize_bilinear
    shift_colours.restype = resize_bilinear.restype = None
    place: list[Any] = [ctypes.c_void_p, *[ctypes.c_size_t] * 3]
    shift_colours.argtypes = [*place, *[ctypes.c_float] * 3]
    resize_bilinear.argtypes = [*place, *place, *[ctypes.c_int] * 3, *[ctypes.c_float] * 3]

    def shift_hsv(image: np.ndarray, hue: float, saturation: float, exposure: float) -> None:
        shift_colours(*_place(image), hue % 1 * _SIXTHS, saturation, exposure)

    def resize(source: np.ndarray, target: np.ndarray, flip: bool, flip_vertical: bool, shift: Shift | None) -> None:
        hue, saturation, exposure = shift or (0.0, 1.0, 1.0)
        flags = (flip, flip_vertical, shift is not None)
        resize_bilinear(*_place(source), *_place(target), *flags, hue % 1 * _SIXTHS, saturation, exposure)

    made = Kernels(shift_hsv, resize)
    _prove(made)
    return made


def _place(image: np.ndarray) -> tuple[int, int, int, int]:
    """Address, height, width, and bytes from row to row."""
    assert in_rows(image), "the kernels read and write RGB bytes in rows"
    height, width = image.shape[:2]
    return image.ctypes.data, height, width, image.strides[0]


def _prove(made: Kernels) -> None:
    """A few colours made into a square, mirrored, and half a turn of both, whose results are known.

    Raises:
        BuildError: a library that fails here is not to be used.
    """
    colours = np.array([[[200, 100, 50], [0, 255, 1], [9, 9, 9], [0, 0, 0]]], np.uint8)
    square, turned = np.empty((2, 2, 2, 3), np.uint8)
    made.resize(colours, square, True, False, None)
    made.resize(colours, turned, True, False, (0.5, 1.0, 1.0))
    made.shift_hsv(colours, 0.5, 1.0, 1.0)
    right = (
        square.tolist() == 2 * [[[5, 5, 5], [100, 178, 26]]],
        turned.tolist() == 2 * [[[5, 5, 5], [103, 26, 178]]],
        colours.tolist() == [[[50, 150, 200], [255, 0, 254], [9, 9, 9], [0, 0, 0]]],
    )
    if not all(right):
        raise BuildError("the test of its library failed")
