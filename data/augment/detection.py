"""The recipe that makes a training image: which sources, how they are placed and coloured, what comes on top."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from data.augment.affine import NO_MOTION, Affine, warp
from data.augment.colour import ColourRange
from data.augment.copy_paste import apply_pastes, sample_pastes
from data.augment.mosaic import Mosaic, WideMosaic
from data.augment.photometric import Photometric
from data.augment.transforms import Geometry, compose, mixup, whole
from utils.cfg.heads import Region, Yolo
from utils.cfg.net import Net
from utils.structures import Sample, Size

_DARKNET_MIX = 0.5  # Darknet tosses a coin before each mosaic or mixup
_MIXUP, _MOSAIC = 1, 3  # Darknet's numbers for them


class Samples(Protocol):
    """Where the sources come from."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


class Draws(NamedTuple):
    """Where random numbers come from: what an image is made of, how that is moved, how it is coloured."""

    choice: np.random.Generator
    motion: np.random.Generator
    colour: np.random.Generator


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images; the defaults do nothing but stretch them.

    Attributes:
        jitter, resize, letter_box, flip, flip_vertical: see :class:`data.augment.transforms.Geometry`.
        hue, saturation, exposure, blur, gaussian_noise: see :class:`data.augment.colour.ColourRange`.
        mosaic, mixup, copy_paste: probabilities.
        mosaic_bound: clip boxes to their mosaic tile.
        affine: how each picture is moved once it is composed. With one, mosaics are wide and bound.
        max_boxes: so many boxes an image keeps, chosen at random ([yolo] ``max``).
        photometric: changes of the finished image, after mosaic and mixup.
        close_at: from this mini-batch on neither mosaic, mixup nor copy-paste; None is never.
        whole_at: from this mini-batch on whole images, not moved: neither jitter, resize nor affine; None is never.
    """

    jitter: float = 0.0
    resize: float = 1.0
    letter_box: bool = False
    flip: bool = False
    flip_vertical: bool = False
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    blur: int = 0
    gaussian_noise: int = 0
    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    mosaic_bound: bool = False
    affine: Affine = NO_MOTION
    max_boxes: int = 200
    photometric: Photometric | None = None
    close_at: int | None = None
    whole_at: int | None = None

    @classmethod
    def from_config(
        cls,
        net: Net,
        yolo: Yolo | Region,
        *,
        mosaic: float | None = None,
        mixup: float | None = None,
        copy_paste: float = 0.0,
        flip_vertical: bool = False,
        mosaic_bound: bool | None = None,
        affine: Affine = NO_MOTION,
        photometric: Photometric | None = None,
        close_at: int | None = None,
        whole_at: int | None = None,
    ) -> Augmentation:
        """What a cfg asks for; ``mosaic``, ``mixup`` and ``mosaic_bound`` override it.

        Args:
            yolo: the last detection layer, whose ``jitter``, ``resize`` and ``max`` rule the whole network.
        """
        return cls(
            jitter=yolo.jitter,
            resize=yolo.resize,
            letter_box=net.letter_box,
            flip=net.flip,
            flip_vertical=flip_vertical,
            hue=net.hue,
            saturation=net.saturation,
            exposure=net.exposure,
            blur=net.blur,
            gaussian_noise=net.gaussian_noise,
            mosaic=_DARKNET_MIX * (mixing_mode(net) == _MOSAIC) if mosaic is None else mosaic,
            mixup=_DARKNET_MIX * (mixing_mode(net) == _MIXUP) if mixup is None else mixup,
            copy_paste=copy_paste,
            mosaic_bound=net.mosaic_bound if mosaic_bound is None else mosaic_bound,
            affine=affine,
            max_boxes=yolo.max,
            photometric=photometric,
            close_at=close_at,
            whole_at=whole_at,
        )

    @property
    def geometry(self) -> Geometry:
        """The part that moves pixels."""
        return Geometry(self.jitter, self.resize, self.letter_box, self.flip, self.flip_vertical)

    @property
    def colours(self) -> ColourRange:
        """The part that changes the colours of each source."""
        return ColourRange(self.hue, self.saturation, self.exposure, self.blur, self.gaussian_noise)

    def pixels_needed(self, largest: Size) -> Size:
        """(H, W) a source must have for its closest crop to fill an input of ``largest`` (H, W) pixel for pixel."""
        enlarged = (1 + self.affine.scale) / self.geometry.closest
        return math.ceil(largest[0] * enlarged), math.ceil(largest[1] * enlarged)

    def closed(self, minibatch: int) -> Augmentation:
        """This augmentation as it is at mini-batch number ``minibatch``."""
        changes: dict[str, object] = {}
        if self.close_at is not None and minibatch >= self.close_at:
            changes |= {"mosaic": 0.0, "mixup": 0.0, "copy_paste": 0.0}
        if self.whole_at is not None and minibatch >= self.whole_at:
            changes |= {"jitter": 0.0, "resize": 1.0, "affine": NO_MOTION}
        return replace(self, **changes) if changes else self


def mixing_mode(net: Net) -> int:
    """How Darknet's detectors mix images: 0 not at all, 1 mixup, 3 mosaic.

    ``mixup`` is the mode, 2 being cutmix and 4 cutmix or mosaic; the keys ``cutmix`` and ``mosaic`` override it. As
    cutmix is for classifiers, a detector makes of 2 none and of 4 mosaic.
    """
    if net.mosaic:
        return _MOSAIC
    mode = 2 if net.cutmix else net.mixup
    return {2: 0, 4: _MOSAIC}.get(mode, mode)


def augmented_sample(
    samples: Samples,
    index: int,
    augmentation: Augmentation,
    size: Size,
    rng: np.random.Generator | Draws,
    out: np.ndarray | None = None,
) -> tuple[Sample, tuple[int, ...]]:
    """Make the training image that starts from source ``index``.

    Args:
        rng: for everything, or one generator for each of the choices.
        out: uint8 (H, W, 3) that gets the pixels; without it the image is a new array.

    Returns:
        The sample on a canvas of ``size`` (H, W), and the indices of all its sources.
    """
    draws = rng if isinstance(rng, Draws) else Draws(rng, rng, rng)
    sample, used = _picture(samples, index, augmentation, size, draws, out)
    if augmentation.copy_paste and draws.choice.random() < augmentation.copy_paste:
        donor, more = _picture(samples, _any(samples, draws.choice), replace(augmentation, mosaic=0.0), size, draws)
        sample, used = apply_pastes(sample, donor, sample_pastes(draws.motion, donor, sample)), used + more
    if draws.choice.random() < augmentation.mixup:
        other, more = _picture(samples, _any(samples, draws.choice), augmentation, size, draws)
        sample, used = mixup(sample, other), used + more
    if augmentation.photometric is not None:
        seed = int(draws.colour.integers(2**31))
        sample = replace(sample, image=augmentation.photometric.apply(sample.image, seed=seed))
    if out is not None and sample.image is not out:
        np.copyto(out, sample.image)
        sample = replace(sample, image=out)
    return _at_most(sample, augmentation.max_boxes, draws.choice), used


def _any(samples: Samples, rng: np.random.Generator) -> int:
    return int(rng.integers(len(samples)))


def _partners(count: int, index: int, rng: np.random.Generator) -> list[int]:
    """Three of ``count`` samples that are neither ``index`` nor twice the same, as far as there are so many."""
    steps = rng.permutation(count - 1)[:3] if count > 3 else rng.integers(max(count - 1, 1), size=3)
    return [(index + 1 + step) % count for step in steps.tolist()]


def _picture(
    samples: Samples,
    index: int,
    augmentation: Augmentation,
    size: Size,
    draws: Draws,
    out: np.ndarray | None = None,
) -> tuple[Sample, tuple[int, ...]]:
    """One source, or with the probability of a mosaic four, placed, coloured and moved; in ``out`` unless moved."""
    affine, canvas = augmentation.affine, size
    if draws.choice.random() < augmentation.mosaic:
        others = _partners(len(samples), index, draws.choice)
        indices = tuple(draws.choice.permutation([index, *others]).tolist())
        sources = [samples[i] for i in indices]
        if affine:
            mosaic, bound = WideMosaic(size, augmentation.geometry), True
            canvas = mosaic.canvas
        else:
            mosaic, bound = Mosaic(size, augmentation.geometry), augmentation.mosaic_bound
        tiles = mosaic.sample(draws.motion, [source.image.shape[:2] for source in sources]).tiles
    else:
        indices, sources, bound = (index,), [samples[index]], True
        tiles = (whole(augmentation.geometry.sample(draws.motion, sources[0].image.shape[:2], size), size),)
    tiles = [tile.coloured(augmentation.colours.sample(draws.colour)) for tile in tiles]
    picture = compose(sources, tiles, canvas, bound=bound, out=None if affine else out)
    return warp(picture, affine.sample(draws.motion, canvas, size), size) if affine else picture, indices


def _at_most(sample: Sample, limit: int, rng: np.random.Generator) -> Sample:
    if len(sample.boxes) <= limit:
        return sample
    keep = np.sort(rng.permutation(len(sample.boxes))[:limit])
    return Sample(sample.image, sample.boxes[keep], sample.labels[keep], sample.crowd[keep])
