"""Geometry of the training images: what part of a source becomes what part of the network input.

Everything is one affine map for each axis: a :class:`Crop` of the source, which may reach outside, is stretched over an
output; a :class:`Tile` shows a window of that output on a canvas. A plain training image is one tile, a mosaic four.
Drawing and doing are apart: ``sample_*`` holds all the randomness, the rest is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from data.colour import NO_CHANGE, Colour, apply_colour
from utils.structures import Sample, Size

_GREY = 114  # the mean of natural pictures, roughly


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


@dataclass(frozen=True)
class Geometry:
    """The cfg keys that move pixels: [yolo] ``jitter`` and ``resize``, [net] ``letter_box`` and ``flip``."""

    jitter: float = 0.0
    resize: float = 1.0
    letter_box: bool = False
    flip: bool = False

    def sample(self, rng: np.random.Generator, source_size: Size, size: Size) -> Crop:
        """Draw a crop as Darknet's load_data_detection does: jitter each side, resize, letterbox, flip.

        Args:
            size: (H, W) of the output; only its aspect ratio matters, for ``letter_box``.
        """
        height, width = source_size
        across, down = int(width * self.jitter), int(height * self.jitter)
        left, right = rng.integers(-across, across + 1, size=2)
        top, bottom = rng.integers(-down, down + 1, size=2)
        near, far = rng.random(2)  # one draw moves left and top, another right and bottom
        crop = Crop(
            source_size,
            int(left) + _zoom(width, self.resize, near),
            int(top) + _zoom(height, self.resize, near),
            int(right) + _zoom(width, self.resize, far),
            int(bottom) + _zoom(height, self.resize, far),
            self.flip and bool(rng.random() < 0.5),
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


def compose(samples: Sequence[Sample], tiles: Sequence[Tile], size: Size, *, bound: bool = True) -> Sample:
    """Paint ``tiles`` of ``samples`` on a canvas of ``size`` (H, W), boxes and all; it is grey where there is no tile.

    Args:
        bound: clip boxes to their tile. Without it they are clipped to the canvas only, so a box may cover parts of a
            neighbour, or lie wholly on one, where its object cannot be seen: Darknet's default.
    """
    canvas = np.full((*size, 3), _GREY, np.uint8)
    boxes, kept = [], []
    for sample, tile in zip(samples, tiles, strict=True):
        placed = place_boxes(sample.boxes, tile)
        paint(canvas, sample.image, tile)
        left, top, right, bottom = tile.window
        shown = clip(placed, tile.window) - np.float32([left, top, left, top])
        apply_colour(canvas[top:bottom, left:right], shown[_visible(shown)], tile.colour)
        placed = clip(placed, tile.window if bound else (0, 0, size[1], size[0]))
        kept.append(_visible(placed))
        boxes.append(placed[kept[-1]])
    return Sample(
        canvas,
        np.concatenate(boxes),
        np.concatenate([sample.labels[keep] for sample, keep in zip(samples, kept, strict=True)]),
        np.concatenate([sample.crowd[keep] for sample, keep in zip(samples, kept, strict=True)]),
    )


def place_boxes(boxes: np.ndarray, tile: Tile) -> np.ndarray:
    """Source pixels to canvas pixels, (N, 4) xyxy, cut to the source image and to the crop but not to the window."""
    crop, (height, width) = tile.crop, tile.size
    boxes = clip(boxes, (0, 0, crop.source_size[1], crop.source_size[0])).astype(np.float64)
    x = (boxes[:, 0::2] - crop.left) * (width / crop.width)
    y = (boxes[:, 1::2] - crop.top) * (height / crop.height)
    if crop.flip:
        x = width - x[:, ::-1]
    x, y = np.clip(x, 0, width) + tile.origin[0], np.clip(y, 0, height) + tile.origin[1]
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float32)


def clip(boxes: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """Boxes (N, 4) xyxy cut to ``window`` (left, top, right, bottom); those outside get a side of zero."""
    return np.clip(boxes, np.float32(window[:2] * 2), np.float32(window[2:] * 2))


def paint(canvas: np.ndarray, image: np.ndarray, tile: Tile) -> None:
    """Draw ``image`` through ``tile`` on ``canvas``, in place.

    Bilinear between pixel centres, straight from the source into the window; beyond the image comes its mean colour.
    """
    left, top, right, bottom = tile.window
    if right <= left or bottom <= top:
        return
    crop, (height, width) = tile.crop, tile.size
    step_x, step_y = crop.width / width, crop.height / height  # source pixels for one of the output
    first_x, first_y = left - tile.origin[0] + 0.5, top - tile.origin[1] + 0.5  # centre of the first pixel, output
    if crop.flip:
        first_x, step_x = width - first_x, -step_x
    start_x = first_x * abs(step_x) + crop.left - 0.5
    start_y = first_y * step_y + crop.top - 0.5
    backward = np.array([[step_x, 0, start_x], [0, step_y, start_y]])
    size = (right - left, bottom - top)
    inside = _inside(start_x, step_x, size[0], image.shape[1]) and _inside(start_y, step_y, size[1], image.shape[0])
    canvas[top:bottom, left:right] = cv2.warpAffine(
        image,
        backward,
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT,
        borderValue=0 if inside else cv2.mean(image)[:3],
    )


def mixup(first: Sample, second: Sample) -> Sample:
    """The mean of two images of one size, with the boxes of both (Darknet's mixup=1)."""
    return Sample(
        cv2.addWeighted(first.image, 0.5, second.image, 0.5, 0),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.labels, second.labels]),
        np.concatenate([first.crowd, second.crowd]),
    )


def _visible(boxes: np.ndarray) -> np.ndarray:
    """bool (N,): at least one pixel wide and high, Darknet's rule."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)


def _zoom(side: int, resize: float, draw: float) -> int:
    """Source pixels one side moves by; ``draw`` in [0, 1). Above 1 ``resize`` zooms both ways, below 1 only out."""
    larger = max(resize, 1 / resize)
    out = int(side * (1 - larger) / 2)  # <= 0
    into = int(side * (1 - 1 / larger) / 2) if resize > 1 else 0
    return int(out + (into - out) * draw)


def _inside(start: float, step: float, count: int, side: int) -> bool:
    """Whether all sampled centres lie on pixels, up to the half pixel at the rim that replicating fills."""
    ends = (start, start + step * (count - 1))
    return min(ends) >= -0.5 - 1e-6 and max(ends) <= side - 0.5 + 1e-6
