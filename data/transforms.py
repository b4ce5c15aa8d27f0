"""Geometry of the training images: what part of a source becomes what part of the network input.

Everything is one affine map for each axis: a :class:`Crop` of the source, which may reach outside, is stretched over an
output; a :class:`Tile` shows a window of that output on a canvas. A plain training image is one tile, a mosaic four.
What a tile shows is moved by less than a pixel so that whole source pixels fill whole canvas pixels (:class:`Span`):
then one resize, straight into the canvas, paints it, and boxes take the same map.
Drawing and doing are apart: ``sample_*`` holds all the randomness, the rest is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from data.colour import NO_CHANGE, Colour, apply_colour
from utils.structures import Sample, Size

_GREY = 114  # the mean of natural pictures, roughly
_SAMPLED = 32  # rows and columns that a mean colour is taken of


@dataclass(frozen=True)
class Crop:
    """The part of a source image that becomes an output image.

    Attributes:
        source_size: (H, W) of the source.
        left, top, right, bottom: source pixels cut off at each side (Darknet's pleft, ptop ...); negative pads.
        flip: mirror the output left to right.
    """

    source_size: Size
    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    flip: bool = False

    @property
    def width(self) -> int:
        """Source pixels from edge to edge."""
        return self.source_size[1] - self.left - self.right

    @property
    def height(self) -> int:
        """Source pixels from edge to edge."""
        return self.source_size[0] - self.top - self.bottom


@dataclass(frozen=True)
class Tile:
    """A window of a canvas, and the output of a crop that shows through it.

    Attributes:
        crop: what is shown.
        size: (H, W) the crop is stretched to.
        origin: (x, y) on the canvas of that output's corner; may lie outside.
        window: (left, top, right, bottom) on the canvas.
        colour: applied to the window alone.
    """

    crop: Crop
    size: Size
    origin: tuple[int, int]
    window: tuple[int, int, int, int]
    colour: Colour = NO_CHANGE

    @cached_property
    def across(self) -> Span:
        """The map of x."""
        crop, (left, _, right, _) = self.crop, self.window
        if not crop.flip:
            return _span((left, right), self.origin[0], self.size[1], crop.left, crop.width, crop.source_size[1])
        mirror = 2 * self.origin[0] + self.size[1]
        window = (mirror - right, mirror - left)
        span = _span(window, self.origin[0], self.size[1], crop.left, crop.width, crop.source_size[1])
        return Span(span.first, span.last, mirror - span.start, mirror - span.stop)

    @cached_property
    def down(self) -> Span:
        """The map of y."""
        crop, (_, top, _, bottom) = self.crop, self.window
        return _span((top, bottom), self.origin[1], self.size[0], crop.top, crop.height, crop.source_size[0])


class Span(NamedTuple):
    """One axis of what a tile shows: the source pixels from edge ``first`` to ``last`` lie from ``start`` to ``stop``.

    The latter are edges of canvas pixels, and ``stop`` is below ``start`` where the tile is mirrored. A span that
    shows nothing of its source has them equal.
    """

    first: int
    last: int
    start: int
    stop: int

    @property
    def line(self) -> tuple[float, float]:
        """Scale and offset of the map from source to canvas, which holds beyond the span too."""
        scale = (self.stop - self.start) / (self.last - self.first)
        return scale, self.start - self.first * scale


@dataclass(frozen=True)
class Geometry:
    """The cfg keys that move pixels: [yolo] ``jitter`` and ``resize``, [net] ``letter_box`` and ``flip``."""

    jitter: float = 0.0
    resize: float = 1.0
    letter_box: bool = False
    flip: bool = False

    @property
    def closest(self) -> float:
        """The smallest part of a source's side that a crop can be, at least a hundredth."""
        zoom = 1 - 1 / self.resize if self.resize > 1 else 0.0
        return max(1 - 2 * self.jitter - zoom, 0.01)

    def sample(self, rng: np.random.Generator, source_size: Size, size: Size) -> Crop:
        """Draw a crop as Darknet's load_data_detection does: jitter each side, resize, letterbox, flip.

        Args:
            size: (H, W) of the output; only its aspect ratio matters, for ``letter_box``.
        """
        height, width = source_size
        across, down = int(width * self.jitter), int(height * self.jitter)
        # all at once: seven calls cost a tenth of a small image; one draw zooms left and top, another right and bottom
        *sides, near, far, mirror = rng.random(7).tolist()
        left, top, right, bottom = map(_between, (across, down, across, down), sides)
        crop = Crop(
            source_size,
            left + _zoom(width, self.resize, near),
            top + _zoom(height, self.resize, near),
            right + _zoom(width, self.resize, far),
            bottom + _zoom(height, self.resize, far),
            self.flip and mirror < 0.5,
        )
        if self.letter_box:
            crop = letterboxed(crop, size)
        return crop if crop.width > 0 and crop.height > 0 else Crop(source_size, flip=crop.flip)


def letterboxed(crop: Crop, size: Size) -> Crop:
    """``crop`` padded so that a whole source has the aspect ratio of ``size``, half at each side."""
    (height, width), (out_height, out_width) = crop.source_size, size
    if width * out_height > height * out_width:
        pad = int((width * out_height / out_width - height) / 2)
        return replace(crop, top=crop.top - pad, bottom=crop.bottom - pad)
    pad = int((height * out_width / out_height - width) / 2)
    return replace(crop, left=crop.left - pad, right=crop.right - pad)


def whole(crop: Crop, size: Size) -> Tile:
    """The tile that shows all of ``crop`` on a canvas of ``size``."""
    return Tile(crop, size, (0, 0), (0, 0, size[1], size[0]))


def compose(
    samples: Sequence[Sample], tiles: Sequence[Tile], size: Size, *, bound: bool = True, out: np.ndarray | None = None
) -> Sample:
    """Paint ``tiles`` of ``samples`` on a canvas of ``size`` (H, W), boxes and all; it is grey where there is no tile.

    Args:
        out: the canvas, uint8 (H, W, 3); default a new one.
        bound: clip boxes to their tile. Without it they are clipped to the canvas only, so a box may cover parts of a
            neighbour, or lie wholly on one, where its object cannot be seen: Darknet's default.
    """
    canvas = np.empty((*size, 3), np.uint8) if out is None else out
    canvas[:] = _GREY
    placed = [place_boxes(sample.boxes, tile) for sample, tile in zip(samples, tiles, strict=True)]
    for sample, tile, boxes in zip(samples, tiles, placed, strict=True):
        paint(canvas, sample.image, tile)
        left, top, right, bottom = tile.window
        inside = _moved_into(boxes, tile.window) if tile.colour.blur else boxes[:0]  # only blur asks for them
        apply_colour(canvas[top:bottom, left:right], inside, tile.colour)
    counts = [len(boxes) for boxes in placed]
    windows = np.repeat([tile.window if bound else (0, 0, size[1], size[0]) for tile in tiles], counts, axis=0)
    boxes = clip(np.concatenate(placed), windows.T)
    kept = _visible(boxes)
    labels, crowd = (
        np.concatenate([getattr(sample, name) for sample in samples])[kept] for name in ("labels", "crowd")
    )
    return Sample(canvas, boxes[kept], labels, crowd)


def place_boxes(boxes: np.ndarray, tile: Tile) -> np.ndarray:
    """Source pixels to canvas pixels, (N, 4) xyxy, cut to the source image and to the crop but not to the window."""
    crop, (height, width) = tile.crop, tile.crop.source_size
    (x_scale, x_offset), (y_scale, y_offset) = tile.across.line, tile.down.line
    right, bottom = width - max(crop.right, 0), height - max(crop.bottom, 0)
    shown = clip(boxes, (max(crop.left, 0), max(crop.top, 0), right, bottom))
    placed = shown * (x_scale, y_scale, x_scale, y_scale) + (x_offset, y_offset, x_offset, y_offset)
    return (placed[:, [2, 1, 0, 3]] if crop.flip else placed).astype(np.float32)


def clip(boxes: np.ndarray, window: Sequence[int] | np.ndarray) -> np.ndarray:
    """Boxes (N, 4) xyxy cut to ``window`` (left, top, right, bottom); those outside get a side of zero.

    Args:
        window: of all boxes (4,), or of each (4, N).
    """
    left, top, right, bottom = window
    low, high = np.float32([left, top, left, top]).T, np.float32([right, bottom, right, bottom]).T
    return np.minimum(np.maximum(boxes, low), high)


def paint(canvas: np.ndarray, image: np.ndarray, tile: Tile) -> None:
    """Draw ``image`` through ``tile`` on ``canvas``, in place.

    Bilinear between pixel centres, straight from the source into the window; beyond the image comes its mean colour.
    """
    left, top, right, bottom = tile.window
    if right <= left or bottom <= top:
        return
    across, down = tile.across, tile.down
    start, stop = sorted((across.start, across.stop))
    if (start, down.start, stop, down.stop) != tile.window:
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), _mean_colour(image), cv2.FILLED)
    if start == stop or down.start == down.stop:
        return
    target = canvas[down.start : down.stop, start:stop]
    cv2.resize(image[down.first : down.last, across.first : across.last], target.shape[1::-1], dst=target)
    if tile.crop.flip:
        cv2.flip(target, 1, dst=target)


def mixup(first: Sample, second: Sample) -> Sample:
    """The mean of two images of one size, with the boxes of both (Darknet's mixup=1)."""
    return Sample(
        cv2.addWeighted(first.image, 0.5, second.image, 0.5, 0),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.crowd, second.crowd]),
    )


def _moved_into(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """What ``window`` shows of ``boxes``, in its own pixels."""
    shown = clip(boxes, window) - np.float32([*window[:2], *window[:2]])
    return shown[_visible(shown)]


def _visible(boxes: np.ndarray) -> np.ndarray:
    """bool (N,): at least one pixel wide and high, Darknet's rule."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)


def _between(limit: int, draw: float) -> int:
    """A whole number from -``limit`` to ``limit``; ``draw`` in [0, 1)."""
    return int(draw * (2 * limit + 1)) - limit


def _zoom(side: int, resize: float, draw: float) -> int:
    """Source pixels one side moves by; ``draw`` in [0, 1). Above 1 ``resize`` zooms both ways, below 1 only out."""
    larger = max(resize, 1 / resize)
    out = int(side * (1 - larger) / 2)  # <= 0
    into = int(side * (1 - 1 / larger) / 2) if resize > 1 else 0
    return int(out + (into - out) * draw)


def _span(window: tuple[int, int], origin: int, extent: int, crop_start: int, crop_extent: int, side: int) -> Span:
    """One axis of a tile, not mirrored.

    Args:
        window: its two edges.
        origin, extent: of the output on the canvas.
        crop_start, crop_extent: of the crop in the source.
        side: pixels of the source.
    """
    step = crop_extent / extent  # source pixels for one of the output
    start, stop = window
    first, last = crop_start + (start - origin) * step, crop_start + (stop - origin) * step
    if first < 0:
        first, start = 0, min(round(origin - crop_start / step), stop)
    if last > side:
        last, stop = side, max(round(origin + (side - crop_start) / step), start)
    first = min(round(first), side - 1)
    return Span(first, max(round(last), first + 1), start, stop)


def _mean_colour(image: np.ndarray) -> tuple[float, ...]:
    """The mean of some thousand pixels: what more would change is not seen, and reading them all costs a resize."""
    step_y, step_x = (max(1, side // _SAMPLED) for side in image.shape[:2])
    return cv2.mean(np.ascontiguousarray(image[::step_y, ::step_x]))[:3]
