"""Boxes with labels on pictures, and a batch of pictures side by side."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import ImageFont

Color = tuple[int, int, int]
Rect = tuple[int, int, int, int]  # x1, y1, x2, y2, the second corner exclusive

# Saturation and value change with the label too, because hues alone run out at about twenty. Six steps, found by
# search: the closest pair of 80 labels is 6.4 CIELAB units apart, of the first 20 labels 28 units.
_SHADES = ((1.0, 1.0), (0.75, 0.95), (0.43, 0.62), (0.51, 0.95), (0.86, 0.86), (0.88, 0.53))
_GOLDEN_RATIO = 0.6180339887498949
_LABEL_OPACITY = 0.8
_GREY = 114
# Fonts that hold Chinese, Japanese and Korean, by the name each system gives them; the bundled one holds none.
_EAST_ASIAN = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "malgun.ttf")
_FIRST_EAST_ASIAN = 0x2E80


def draw_detections(
    image: np.ndarray, boxes: ArrayLike, labels: ArrayLike, scores: ArrayLike | None, names: Sequence[str]
) -> np.ndarray:
    """Draw boxes and their labels on a copy of ``image``.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (N, 4) xyxy, pixels; may reach beyond the image, and boxes that are not finite are left out.
        labels: (N,) class indices.
        scores: (N,) in [0, 1], or None for boxes that are the truth. The best are drawn on top.
        names: text of each class; a label beyond them is shown as its number.
    """
    canvas = np.ascontiguousarray(image).copy()
    height, width = canvas.shape[:2]
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    labels = np.asarray(labels, dtype=np.int64).reshape(-1)
    order = np.arange(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    thickness, font_size = line_width(height, width), text_size(height, width)
    visible = [(index, rect) for index in order if (rect := _clip(boxes[index], height, width)) is not None]
    for index, rect in visible:
        _draw_box(canvas, rect, color_of(labels[index]), thickness)
    placed: list[tuple[Rect, np.ndarray, Color]] = []
    for index, rect in reversed(visible):  # the best get the first choice of a place ...
        text = _caption(int(labels[index]), None if scores is None else float(np.asarray(scores)[index]), names)
        mask = _text_mask(text, font_size)[:height, :width]
        place = _place(rect, mask.shape, (height, width), [other for other, _, _ in placed])
        placed.append((place, mask, color_of(labels[index])))
    for place, mask, color in reversed(placed):  # ... and lie on top where there is none left
        _blend_label(canvas, place, mask, color)
    return canvas


def color_of(label: int) -> Color:
    """RGB of a class, the same in every picture: hues a golden ratio apart, in six shades."""
    label = int(label)
    saturation, value = _SHADES[label % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN_RATIO) % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Color) -> Color:
    """Black or white, whichever contrasts more with ``background`` (relative luminance of WCAG 2)."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 if c > 10 else c / 255 / 12.92 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # the contrast with white is 1.05 / (L + .05), with black (L + .05) / .05; they meet at L = .179
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def line_width(height: int, width: int) -> int:
    """Pixels of a box's line for an image of this size: 2 at 640x480, 8 at 4K."""
    return max(1, round((height + width) / 2 * 0.0022 + 1))


def text_size(height: int, width: int) -> int:
    """Font size for an image of this size: 12 at 640x480, never below what can be read."""
    return max(10, round((height + width) / 2 * 0.016 + 3))


def batch_grid(
    images: Sequence[np.ndarray],
    boxes_per_image: Sequence[ArrayLike],
    labels_per_image: Sequence[ArrayLike],
    names: Sequence[str],
    *,
    most: int = 16,
    smallest: int = 400,
    largest: int = 1920,
) -> np.ndarray:
    """A training batch as one picture: its first ``most`` images with their truth, in rows.

    Args:
        images: uint8 (H, W, 3) RGB each, of any sizes.
        boxes_per_image: (N, 4) xyxy pixels of each image.
        labels_per_image: (N,) of each image.
        smallest: longer side of an image in pixels; smaller ones are enlarged, or labels would cover them.
        largest: longest side of the result in pixels; where both cannot be, this is.
    """
    count = min(most, len(images))
    columns = max(1, math.ceil(math.sqrt(count)))
    rows = max(1, math.ceil(count / columns))
    height = max((image.shape[0] for image in images[:count]), default=1)
    width = max((image.shape[1] for image in images[:count]), default=1)
    wanted = max(1.0, smallest / max(height, width))
    scale = min(wanted, (largest - columns) / (columns * width), (largest - rows) / (rows * height))
    tile_h, tile_w = max(1, int(height * scale)), max(1, int(width * scale))
    grid = np.full((rows * (tile_h + 1) - 1, columns * (tile_w + 1) - 1, 3), _GREY, np.uint8)
    for index in range(count):
        # drawn at the size it is shown in, so that labels stay readable
        shown = _scaled(images[index], scale)
        boxes = np.asarray(boxes_per_image[index], dtype=np.float64).reshape(-1, 4) * scale
        picture = draw_detections(shown, boxes, labels_per_image[index], None, names)
        top, left = (index // columns) * (tile_h + 1), (index % columns) * (tile_w + 1)
        grid[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return grid


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    if scale == 1.0:
        return image
    height, width = image.shape[:2]
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _clip(box: np.ndarray, height: int, width: int) -> Rect | None:
    """The visible part of a box in whole pixels; None where nothing of it is in the image."""
    if not np.isfinite(box).all():
        return None
    x1, y1, x2, y2 = box
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height or x2 < x1 or y2 < y1:
        return None
    left, top = min(max(round(x1), 0), width - 1), min(max(round(y1), 0), height - 1)
    return left, top, max(left + 1, min(round(x2), width)), max(top + 1, min(round(y2), height))


def _draw_box(canvas: np.ndarray, rect: Rect, color: Color, thickness: int) -> None:
    x1, y1, x2, y2 = rect
    # edges lie on whole pixels, where smoothing would only blur them; the text is what is smoothed
    cv2.rectangle(canvas, (x1, y1), (x2 - 1, y2 - 1), color, thickness, cv2.LINE_8)


def _caption(label: int, score: float | None, names: Sequence[str]) -> str:
    name = names[label] if 0 <= label < len(names) else str(label)
    return name if score is None else f"{name} {score:.2f}"


def _blend_label(canvas: np.ndarray, place: Rect, mask: np.ndarray, color: Color) -> None:
    """Blend a label into ``canvas`` in place: a filled ground that lets the picture through, and the text on it."""
    x1, y1, x2, y2 = place
    region = canvas[y1:y2, x1:x2].astype(np.float32)
    region += _LABEL_OPACITY * (np.asarray(color, np.float32) - region)
    region += mask[..., None] * (np.asarray(text_color(color), np.float32) - region)
    canvas[y1:y2, x1:x2] = np.rint(region).astype(np.uint8)


def _place(rect: Rect, label: tuple[int, int], image: tuple[int, int], taken: Sequence[Rect]) -> Rect:
    """Where the label goes: on top of the box, else inside it, below it, or one line off; the first free place."""
    x1, y1, x2, y2 = rect
    height, width = label
    left = min(x1, image[1] - width)
    right = max(0, min(x2, image[1]) - width)
    tops = (y1 - height, y1, y2, y2 - height, y1 - 2 * height, y2 + height)
    wanted = [(left, top) for top in tops] + [(right, top) for top in tops]
    places = [(x, y, x + width, y + height) for x, y in wanted if 0 <= y <= image[0] - height]
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    fallback = places[0] if places else (left, 0, left + width, height)
    return next(free, fallback)


def _overlap(first: Rect, second: Rect) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


@lru_cache(maxsize=4096)
def _text_mask(text: str, font_size: int) -> np.ndarray:
    """Coverage of ``text`` with a margin round it, float32 (h, w) in [0, 1]; kept, as captions repeat in a video."""
    font = _font(font_size, any(ord(character) >= _FIRST_EAST_ASIAN for character in text))
    ascent, descent = font.getmetrics()
    margin = max(1, round(font_size * 0.2))
    glyphs, (offset_x, offset_y) = font.getmask2(text, mode="L", anchor="ls")
    width, height = glyphs.size
    ink = np.asarray(glyphs, dtype=np.float32).reshape(height, width) / 255.0
    mask = np.zeros((ascent + descent, math.ceil(font.getlength(text)) + 2 * margin), np.float32)
    top, left = max(0, ascent + offset_y), max(0, margin + offset_x)
    part = ink[: mask.shape[0] - top, : mask.shape[1] - left]
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=64)
def _font(size: int, east_asian: bool) -> ImageFont.FreeTypeFont:
    for name in _EAST_ASIAN if east_asian else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    bundled = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
    return ImageFont.truetype(str(bundled), size)
