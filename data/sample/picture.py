"""One picture of the sample data set, with its annotations.

Every picture is a function of (version, seed, split, index). The same machine draws the same bytes again; another
kind of processor may round the last bit of a few pixels differently, as NumPy's and OpenCV's vector code does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2

from data.sample.lens import photograph
from data.sample.scene import draw_scene, render, without_hidden
from utils.keyed_random import keyed_rng

if TYPE_CHECKING:  # utils.structures imports torch, which the drawing processes can do without
    from utils.structures import Size

VERSION = 1  # of the drawing code; a folder drawn by another version is drawn anew
_JPEG_QUALITY = 90


def draw_picture(size: Size, seed: int, key: tuple[int, int]) -> tuple[bytes, list[dict[str, Any]]]:
    """Picture ``key`` (0 train or 1 val, index) as JPEG bytes, and its objects as COCO annotations without ids."""
    rng = keyed_rng(VERSION, seed, *key)
    light, objects = render(*without_hidden(draw_scene(rng, size)))
    picture = cv2.cvtColor(photograph(light, rng), cv2.COLOR_RGB2BGR)
    annotations = []
    for label, (left, top, right, bottom), area in objects:
        box = [left, top, right - left, bottom - top]
        annotations.append({"category_id": label + 1, "bbox": box, "area": area, "iscrowd": 0})
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes(), annotations
