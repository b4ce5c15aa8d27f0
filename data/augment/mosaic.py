"""Mosaics, four training images round one random point: Darknet's, and a wide one to be scaled afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.augment.transforms import Crop, Geometry, Tile, compose
from utils.structures import Sample, Size

_NEAREST_CUT = 0.2  # the cut keeps this part of the side away from the rim


@dataclass(frozen=True)
class MosaicLayout:
    """One draw of a mosaic: ``cut`` is the (x, y) where the tiles meet; they go TL, TR, BL, BR."""

    cut: tuple[int, int]
    tiles: tuple[Tile, Tile, Tile, Tile]


@dataclass(frozen=True)
class Mosaic:
    """Four samples round one random centre, on a canvas of ``size`` (H, W).

    Each source is jittered to the full canvas as if it stood alone; its tile then shows the window of that output
    which touches the cut, moved inwards where the output is padding.

    Attributes:
        size: of the canvas.
        geometry: how each source is jittered.
        bound: clip boxes to their tile ([net] ``mosaic_bound``), see :func:`data.augment.transforms.compose`.
    """

    size: Size
    geometry: Geometry
    bound: bool = False

    def sample(self, rng: np.random.Generator, source_sizes: Sequence[Size]) -> MosaicLayout:
        """Draw a layout for four sources of these sizes (H, W)."""
        height, width = self.size
        cut = (_cut(rng, width), _cut(rng, height))
        crops = [self._crop(rng, place, source_size) for place, source_size in enumerate(source_sizes)]
        tl, tr, bl, br = (self._tile(place, crop, cut) for place, crop in enumerate(crops))
        return MosaicLayout(cut, (tl, tr, bl, br))

    def apply(self, samples: Sequence[Sample], layout: MosaicLayout) -> Sample:
        """Compose the four samples: same arguments, same bytes."""
        return compose(samples, layout.tiles, self.size, bound=self.bound)

    def _crop(self, rng: np.random.Generator, place: int, source_size: Size) -> Crop:
        """A jittered crop; every other one is pushed to the corner, so that most of the object side is visible."""
        crop = self.geometry.sample(rng, source_size, self.size)
        return _to_corner(crop, place) if rng.random() < 0.5 else crop

    def _tile(self, place: int, crop: Crop, cut: tuple[int, int]) -> Tile:
        height, width = self.size
        on_left, on_top = place % 2 == 0, place < 2
        # padding at each side of the output, in its pixels
        source_height, source_width = crop.source_size
        pad_left, pad_right = (-int(side * width / source_width) for side in (crop.left, crop.right))
        pad_top, pad_bottom = (-int(side * height / source_height) for side in (crop.top, crop.bottom))
        if crop.flip:
            pad_left, pad_right = pad_right, pad_left
        if crop.flip_vertical:
            pad_top, pad_bottom = pad_bottom, pad_top
        x = cut[0] - width + _shift(pad_right, width - cut[0]) if on_left else cut[0] - _shift(pad_left, cut[0])
        y = cut[1] - height + _shift(pad_bottom, height - cut[1]) if on_top else cut[1] - _shift(pad_top, cut[1])
        window = (
            0 if on_left else cut[0],
            0 if on_top else cut[1],
            cut[0] if on_left else width,
            cut[1] if on_top else height,
        )
        return Tile(crop, self.size, (x, y), window)


@dataclass(frozen=True)
class WideMosaic:
    """Four samples, each of them whole, on a canvas of twice the ``size`` (H, W); `data.augment.affine` cuts from it.

    Each source is jittered to ``size``, and those outputs touch in one random point of the canvas's middle half. What
    reaches beyond the canvas is lost, and what they leave free is grey.
    """

    size: Size
    geometry: Geometry

    @property
    def canvas(self) -> Size:
        """(H, W)."""
        return 2 * self.size[0], 2 * self.size[1]

    def sample(self, rng: np.random.Generator, source_sizes: Sequence[Size]) -> MosaicLayout:
        """Draw a layout for four sources of these sizes (H, W)."""
        height, width = self.size
        x, y = (int(rng.integers(side // 2, 2 * side - side // 2 + 1)) for side in (width, height))
        crops = [self.geometry.sample(rng, source_size, self.size) for source_size in source_sizes]
        origins = ((x - width, y - height), (x, y - height), (x - width, y), (x, y))
        tl, tr, bl, br = (self._tile(crop, origin) for crop, origin in zip(crops, origins, strict=True))
        return MosaicLayout((x, y), (tl, tr, bl, br))

    def apply(self, samples: Sequence[Sample], layout: MosaicLayout) -> Sample:
        """Compose the four samples: same arguments, same bytes."""
        return compose(samples, layout.tiles, self.canvas)

    def _tile(self, crop: Crop, origin: tuple[int, int]) -> Tile:
        """All of a crop's output that lies on the canvas."""
        (x, y), (height, width) = origin, self.size
        right, bottom = min(x + width, 2 * width), min(y + height, 2 * height)
        return Tile(crop, self.size, origin, (max(x, 0), max(y, 0), right, bottom))


def _cut(rng: np.random.Generator, side: int) -> int:
    return int(rng.integers(int(side * _NEAREST_CUT), int(side * (1 - _NEAREST_CUT)) + 1))


def _to_corner(crop: Crop, place: int) -> Crop:
    """Move the crop, its size kept, to the corner of the source that is the outer one of the tile at ``place``."""
    across, down = crop.left + crop.right, crop.top + crop.bottom
    to_left = (place % 2 == 0) != crop.flip
    to_top = (place < 2) != crop.flip_vertical
    left, right = (0, across) if to_left else (across, 0)
    top, bottom = (0, down) if to_top else (down, 0)
    return replace(crop, left=left, right=right, top=top, bottom=bottom)


def _shift(padding: int, room: int) -> int:
    return min(room, max(0, padding))
