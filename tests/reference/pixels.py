"""Colours and resizes, pixel by pixel and not rounded."""

from __future__ import annotations

import colorsys

import numpy as np


def exactly_shifted(image: np.ndarray, hue: float, saturation: float, exposure: float) -> np.ndarray:
    """What `shift_hsv` should make of ``image``, not rounded."""
    wanted = np.empty(image.shape)
    for row, column in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[row, column] / 255)
        changed = colorsys.hsv_to_rgb((h + hue) % 1, min(1, s * saturation), min(1, v * exposure))
        wanted[row, column] = np.array(changed) * 255
    return wanted


def _taps(target: int, source: int) -> np.ndarray:
    """The weights of the source pixels (target, source), by the formula, one by one."""
    weights = np.zeros((target, source))
    for place in range(target):
        exact = min(max((place + 0.5) * source / target - 0.5, 0), source - 1)
        first = int(exact)
        weights[place, first] += 1 - (exact - first)
        weights[place, min(first + 1, source - 1)] += exact - first
    return weights


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` resized, not rounded."""
    down, across = _taps(size[0], image.shape[0]), _taps(size[1], image.shape[1])
    return np.einsum("ys,xt,stc->yxc", down, across, image.astype(float))
