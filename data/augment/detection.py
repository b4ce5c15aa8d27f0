"""The recipe that makes a training image: which sources, how they are placed and coloured, what comes on top."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from data.augment.affine import Affine, warp
from data.augment.colour import ColourRange
from data.augment.copy_paste import apply_pastes, sample_pastes
from data.augment.mosaic import Mosaic, WideMosaic
from data.augment.photometric import Photometric, load_photometric
from data.augment.transforms import Geometry, Tile, compose, mixup, whole
from utils.cfg import Config
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
        scale, translate, shear: see :class:`data.augment.affine.Affine`. With one, mosaics are wide and bound.
        max_boxes: so many boxes an image keeps, chosen at random ([yolo] ``max``).
        photometric: changes of the finished image, after mosaic and mixup.
        close_mosaic: share of the run, at its end, with neither mosaic, mixup nor copy-paste.
        close_jitter: share of the run, at its end, with whole images, not moved: neither jitter, resize nor affine.
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
    scale: float = 0.0
    translate: float = 0.0
    shear: float = 0.0
    max_boxes: int = 200
    photometric: Photometric | None = None
    close_mosaic: float = 0.0
    close_jitter: float = 0.0

    @classmethod
    def from_config(cls, net: Net, head: Yolo | Region) -> Augmentation:
        """What a cfg asks for.

        Args:
            head: the last detection layer, whose ``jitter``, ``resize`` and ``max`` rule the whole network.
        """
        mode = mixing_mode(net)
        return cls(
            jitter=head.jitter,
            resize=head.resize,
            letter_box=net.letter_box,
            flip=net.flip,
            hue=net.hue,
            saturation=net.saturation,
            exposure=net.exposure,
            blur=net.blur,
            gaussian_noise=net.gaussian_noise,
            mosaic=_DARKNET_MIX * (mode == _MOSAIC),
            mixup=_DARKNET_MIX * (mode == _MIXUP),
            mosaic_bound=net.mosaic_bound,
            max_boxes=head.max,
        )

    def with_flags(self, flags: object) -> Augmentation:
        """This augmentation, with those attributes of ``flags`` that bear the name of one of its own and are not None.

        Raises:
            InputError: ``photometric`` names no pipeline.
        """
        return replace(self, **given_flags(self, flags))

    @property
    def geometry(self) -> Geometry:
        """The part that moves pixels."""
        return Geometry(self.jitter, self.resize, self.letter_box, self.flip, self.flip_vertical)

    @property
    def affine(self) -> Affine:
        """How each picture is moved once it is composed."""
        return Affine(self.scale, self.translate, self.shear)

    @property
    def colours(self) -> ColourRange:
        """The part that changes the colours of each source."""
        return ColourRange(self.hue, self.saturation, self.exposure, self.blur, self.gaussian_noise)

    def pixels_needed(self, largest: Size) -> Size:
        """(H, W) a source must have for its closest crop to fill an input of ``largest`` (H, W) pixel for pixel."""
        enlarged = (1 + self.scale) / self.geometry.closest
        return math.ceil(largest[0] * enlarged), math.ceil(largest[1] * enlarged)

    def closed(self, minibatch: int, closing: Callable[[float], int] | None) -> Augmentation:
        """This augmentation as it is at mini-batch number ``minibatch``.

        Args:
            closing: the first mini-batch of the last part of the run, by that part's share of it; None: it has no end.
        """
        changes: dict[str, Any] = {}
        if closing and minibatch >= closing(self.close_mosaic):
            changes |= {"mosaic": 0.0, "mixup": 0.0, "copy_paste": 0.0}
        if closing and minibatch >= closing(self.close_jitter):
            changes |= {"jitter": 0.0, "resize": 1.0, "scale": 0.0, "translate": 0.0, "shear": 0.0}
        return replace(self, **changes) if changes else self


def given_flags(augmentation: Any, flags: object) -> dict[str, Any]:
    """The ``flags`` that are not None and bear the name of a field of ``augmentation``, as values for these fields."""
    values = {field.name: getattr(flags, field.name, None) for field in fields(augmentation)}
    given = {name: value for name, value in values.items() if value is not None}
    if "photometric" in given:
        given["photometric"] = load_photometric(given["photometric"])
    return given


def augmentation_of(config: Config, flags: object) -> Augmentation:
    """What a cfg asks for, and ``flags`` change; see `Augmentation.with_flags`."""
    return Augmentation.from_config(config.net, last_head(config)).with_flags(flags)


def last_head(config: Config) -> Yolo | Region:
    """The section whose keys rule the augmentation of the whole network."""
    return next(section for section in reversed(config.layers) if isinstance(section, Yolo | Region))


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
    mosaic: Mosaic | WideMosaic
    tiles: Sequence[Tile]
    if draws.choice.random() < augmentation.mosaic:
        others = _partners(len(samples), index, draws.choice)
        indices = tuple(draws.choice.permutation([index, *others]).tolist())
        sources = [samples[i] for i in indices]
        if affine:
            wide = WideMosaic(size, augmentation.geometry)
            mosaic, bound, canvas = wide, True, wide.canvas
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
