"""Geometry of the training images: what part of a source becomes what part of the network input.

Everything is one affine map for each axis: a :class:`Crop` of the source, which may reach outside, is stretched over an
output; a :class:`Tile` shows a window of that output on a canvas. A plain training image is one tile, a mosaic four.
What a tile shows is moved by less than a pixel so that whole source pixels fill whole canvas pixels
(`data.augment.span`): then one resize, straight into the canvas, paints it, and boxes take the same map.
Drawing and doing are apart: ``sample_*`` holds all the randomness, the rest is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from data.augment.colour import NO_CHANGE, Colour, blur_and_noise, shift_hsv
from data.augment.resize import resize_into
from data.augment.span import Span, span_of
from utils.structures import Sample, Size

_GREY = 114  # the mean of natural pictures, roughly
_SAMPLED = 16  # rows and columns that a mean colour is taken of


@dataclass(frozen=True)
class Crop:
    """The part of a source image that becomes an output image.

    Attributes:
        source_size: (H, W) of the source.
        left, top, right, bottom: source pixels cut off at each side (Darknet's pleft, ptop ...); negative pads.
        flip: mirror the output left to right.
        flip_vertical: mirror it top to bottom.
    """

    source_size: Size
    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    flip: bool = False
    flip_vertical: bool = False

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

    @property
    def area(self) -> int:
        """Pixels of the window."""
        left, top, right, bottom = self.window
        return (right - left) * (bottom - top)

    def coloured(self, colour: Colour) -> Tile:
        """The same in other colours."""
        return Tile(self.crop, self.size, self.origin, self.window, colour)

    @cached_property
    def across(self) -> Span:
        """The map of x."""
        crop, (left, _, right, _) = self.crop, self.window
        source = (crop.left, crop.width, crop.source_size[1])
        return span_of((left, right), self.origin[0], self.size[1], *source, mirrored=crop.flip)

    @cached_property
    def down(self) -> Span:
        """The map of y."""
        crop, (_, top, _, bottom) = self.crop, self.window
        source = (crop.top, crop.height, crop.source_size[0])
        return span_of((top, bottom), self.origin[1], self.size[0], *source, mirrored=crop.flip_vertical)


@dataclass(frozen=True)
class Geometry:
    """The cfg keys that move pixels: [yolo] ``jitter`` and ``resize``, [net] ``letter_box`` and ``flip``.

    ``flip_vertical`` is no key of Darknet's: half of the images upside down.
    """

    jitter: float = 0.0
    resize: float = 1.0
    letter_box: bool = False
    flip: bool = False
    flip_vertical: bool = False

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
        upside_down = self.flip_vertical and bool(rng.random() < 0.5)
        left, top, right, bottom = map(_between, (across, down, across, down), sides)
        crop = Crop(
            source_size,
            left + _zoom(width, self.resize, near),
            top + _zoom(height, self.resize, near),
            right + _zoom(width, self.resize, far),
            bottom + _zoom(height, self.resize, far),
            self.flip and mirror < 0.5,
            upside_down,
        )
        if self.letter_box:
            crop = letterboxed(crop, size)
        if crop.width > 0 and crop.height > 0:
            return crop
        return Crop(source_size, flip=crop.flip, flip_vertical=crop.flip_vertical)


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
    if sum(tile.area for tile in tiles) < size[0] * size[1]:  # windows do not overlap
        canvas[:] = _GREY
    counts = [len(sample.boxes) for sample in samples]
    placed = place_boxes([sample.boxes for sample in samples], tiles)
    ends = np.cumsum(counts).tolist()
    for sample, tile, count, end in zip(samples, tiles, counts, ends, strict=True):
        paint(canvas, sample.image, tile)
        left, top, right, bottom = tile.window
        boxes = placed[end - count : end]
        inside = _moved_into(boxes, tile.window) if tile.colour.blur else boxes[:0]  # only blur asks for them
        blur_and_noise(canvas[top:bottom, left:right], inside, tile.colour)
    windows = np.array([tile.window if bound else (0, 0, size[1], size[0]) for tile in tiles])
    boxes = clip(placed, windows.repeat(counts, axis=0).T)
    kept = _visible(boxes)
    labels, crowd = (
        np.concatenate([getattr(sample, name) for sample in samples])[kept] for name in ("labels", "crowd")
    )
    return Sample(canvas, boxes[kept], labels, crowd)


def place_boxes(boxes: Sequence[np.ndarray], tiles: Sequence[Tile]) -> np.ndarray:
    """Source pixels to canvas pixels, (N, 4) xyxy, cut to the source image and to the crop but not to the window.

    Args:
        boxes: those of each tile, in their order.
    """
    counts = [len(one) for one in boxes]
    maps = np.array([_map_of(tile) for tile in tiles]).repeat(counts, axis=0)  # (N, 8)
    shown = clip(np.concatenate(boxes), maps[:, :4].T)
    scale, offset = maps[:, 4:6], maps[:, 6:]
    near, far = shown[:, :2] * scale + offset, shown[:, 2:] * scale + offset
    mirrored = scale < 0  # then a box begins where it ended
    return np.concatenate((np.where(mirrored, far, near), np.where(mirrored, near, far)), axis=1, dtype=np.float32)


def _map_of(tile: Tile) -> tuple[float, ...]:
    """What a tile shows of its source (left, top, right, bottom), and scale and offset (x, y) of the way to it."""
    crop, (height, width) = tile.crop, tile.crop.source_size
    (x_scale, x_offset), (y_scale, y_offset) = tile.across.line, tile.down.line
    right, bottom = width - max(crop.right, 0), height - max(crop.bottom, 0)
    return max(crop.left, 0), max(crop.top, 0), right, bottom, x_scale, y_scale, x_offset, y_offset


def clip(boxes: np.ndarray, window: Sequence[int] | np.ndarray) -> np.ndarray:
    """Boxes (N, 4) xyxy cut to ``window`` (left, top, right, bottom); those outside get a side of zero.

    Args:
        window: of all boxes (4,), or of each (4, N).
    """
    left, top, right, bottom = window
    low, high = (np.array(ends, np.float32).T for ends in ([left, top, left, top], [right, bottom, right, bottom]))
    return np.minimum(np.maximum(boxes, low), high)


def paint(canvas: np.ndarray, image: np.ndarray, tile: Tile) -> None:
    """Draw ``image`` through ``tile`` on ``canvas``, in place, with the tile's hue, saturation and exposure.

    Bilinear between pixel centres, straight from the source into the window; beyond the image comes its mean colour.
    """
    left, top, right, bottom = tile.window
    if right <= left or bottom <= top:
        return
    across, down = tile.across, tile.down
    (x1, x2), (y1, y2) = (sorted((span.start, span.stop)) for span in (across, down))
    if (x1, y1, x2, y2) != tile.window:
        _fill_around(canvas, tile.window, (x1, y1, x2, y2), _mean_colour(image, tile.colour))
    if x1 == x2 or y1 == y2:
        return
    part = image[down.first : down.last, across.first : across.last]
    flips = {"flip": tile.crop.flip, "flip_vertical": tile.crop.flip_vertical}
    resize_into(part, canvas[y1:y2, x1:x2], **flips, colour=tile.colour)


def _fill_around(
    canvas: np.ndarray,
    window: tuple[int, int, int, int],
    inner: tuple[int, int, int, int],
    colour: Sequence[int],
) -> None:
    """Paint the rim of ``window`` around ``inner``, in place; both (left, top, right, bottom)."""
    left, top, right, bottom = window
    x1, y1, x2, y2 = inner
    rims = ((left, top, right, y1), (left, y2, right, bottom), (left, y1, x1, y2), (x2, y1, right, y2))
    for start_x, start_y, end_x, end_y in rims:
        if start_x < end_x and start_y < end_y:
            cv2.rectangle(canvas, (start_x, start_y), (end_x - 1, end_y - 1), colour, cv2.FILLED)


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
    shown = clip(boxes, window) - np.array([*window[:2], *window[:2]], np.float32)
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


def _mean_colour(image: np.ndarray, colour: Colour) -> list[int]:
    """The mean of some hundred pixels, recoloured: what more would change is not seen, and each is a line of memory."""
    step_y, step_x = (max(1, side // _SAMPLED) for side in image.shape[:2])
    mean = np.rint([[cv2.mean(np.ascontiguousarray(image[::step_y, ::step_x]))[:3]]]).astype(np.uint8)
    if colour.shift:
        shift_hsv(mean, *colour.shift)
    return mean[0, 0].tolist()
