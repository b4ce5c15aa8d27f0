"""One pass for all training images: resized straight into the canvas, mirrored and recoloured on the way."""

from __future__ import annotations

import cv2
import numpy as np

from data.augment.colour import NO_CHANGE, Colour, shift_hsv
from data.augment.kernels import in_rows, kernels

_MOST_REDUCED = 3  # times the width of the target: beyond, OpenCV, which skips pixels that do not show, is faster
_FLIP_CODES = {(True, False): 1, (False, True): 0, (True, True): -1}  # OpenCV's


def resize_into(
    source: np.ndarray,
    target: np.ndarray,
    *,
    flip: bool = False,
    flip_vertical: bool = False,
    colour: Colour = NO_CHANGE,
) -> None:
    """Fill ``target`` with ``source``, bilinear between pixel centres, in place; both are uint8 (H, W, 3), not empty.

    Compiled, it is float, rounded once; OpenCV's fixed point, which serves where nothing compiles and where much is
    left out, may be a level off.

    Args:
        flip: mirror left to right.
        flip_vertical: mirror top to bottom.
        colour: what of it `shift_hsv` does.
    """
    made = kernels()
    little_reduced = source.shape[1] <= _MOST_REDUCED * target.shape[1]
    if made is not None and little_reduced and in_rows(source) and in_rows(target):
        made.resize(source, target, flip, flip_vertical, colour.shift)
        return
    cv2.resize(source, target.shape[1::-1], dst=target)
    if flip or flip_vertical:
        cv2.flip(target, _FLIP_CODES[flip, flip_vertical], dst=target)
    if colour.shift:
        shift_hsv(target, *colour.shift)
