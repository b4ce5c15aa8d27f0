"""The recipe that makes a classifier's training image: what part of which pictures, how coloured, how mixed.

As everywhere in data/ drawing and doing are apart: ``sample`` and ``labelled_picture`` hold the randomness, the rest is
pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from data.augment.colour import ColourRange, apply_colour, blur, draw_factor
from data.augment.detection import Samples, given_flags
from data.augment.photometric import Photometric
from utils.cfg import Config
from utils.cfg.net import Net
from utils.structures import Size

MIXES = ("mixup", "cutmix", "mosaic")

_DARKNET_MIX = 0.5  # Darknet tosses a coin before it mixes
_BLURRED = 0.25  # of the images, where [net] has blur
_PLAIN_BLUR = 15  # the kernel that blur=1 stands for
_CUTMIX_SIDE = (0.3, 0.8)  # of the image, what the pasted rectangle takes
_MOSAIC_CUT = (0.2, 0.8)  # of the side, where the four pictures meet
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class RandomCrop:
    """The cfg keys that move pixels: [net] ``min_crop``, ``max_crop``, ``angle``, ``aspect`` and ``flip``.

    ``flip_vertical`` is no key of Darknet's: half of the images upside down.
    """

    min_crop: int
    max_crop: int
    angle: float = 0.0
    aspect: float = 1.0
    flip: bool = False
    flip_vertical: bool = False

    def sample(self, rng: np.random.Generator, source_size: Size, size: Size) -> np.ndarray:
        """Draw a window after Darknet's random_augment_image: aspect, shorter side, turn, place, flip.

        The source is squeezed by the aspect and scaled so that its shorter side gets min_crop to max_crop pixels. Of
        that a square as large as the longer side of ``size`` is seen, turned, and stretched over ``size`` (H, W).

        Returns:
            float64 (2, 3), from the pixel (x, y, 1) of the output to that of the source.
        """
        (source_height, source_width), (height, width) = source_size, size
        aspect = draw_factor(rng, self.aspect)
        shorter = max(1, int(rng.integers(min(self.min_crop, self.max_crop), max(self.min_crop, self.max_crop) + 1)))
        scale = shorter / min(source_height, source_width / aspect)  # window pixels for one of the source
        turn = math.radians(rng.uniform(-self.angle, self.angle))
        window = max(size)
        spare = np.maximum([source_width / aspect * scale - window, source_height * scale - window], 0) / 2
        shift = rng.uniform(-spare, spare)
        flip = self.flip and bool(rng.random() < 0.5)
        upside_down = self.flip_vertical and bool(rng.random() < 0.5)
        # output -> window, around its centre -> source, unturned -> source
        across, down = window / width * (-1 if flip else 1), window / height * (-1 if upside_down else 1)
        corner = shift - (across * width / 2, down * height / 2)
        to_window = np.array([[across, 0, corner[0]], [0, down, corner[1]], [0, 0, 1]])
        to_source = np.diag([aspect / scale, 1 / scale, 1])
        cosine, sine = math.cos(turn), math.sin(turn)
        turned = np.array([[cosine, -sine, source_width / 2], [sine, cosine, source_height / 2], [0, 0, 1]])
        edges = turned @ to_source @ to_window  # of continuous coordinates, in which pixel x reaches from x to x + 1
        edges[:2, 2] += edges[:2, :2].sum(axis=1) / 2 - 0.5
        return edges[:2]


def warp(image: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """The window ``matrix`` describes, (H, W, 3) of ``size``: bilinear, black beyond the image as in Darknet."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_CONSTANT)


@dataclass(frozen=True)
class Picture:
    """An image of its final size and what it shows: uint8 (H, W, 3) RGB, float32 (K,) shares that sum to 1."""

    image: np.ndarray
    truth: np.ndarray


def mixup(first: Picture, second: Picture) -> Picture:
    """The mean of two pictures (arXiv 1710.09412, always half and half)."""
    return Picture(cv2.addWeighted(first.image, 0.5, second.image, 0.5, 0), (first.truth + second.truth) / 2)


def cutmix(first: Picture, second: Picture, window: tuple[int, int, int, int]) -> Picture:
    """``first`` with the ``window`` (left, top, right, bottom) of ``second``; classes by area (arXiv 1905.04899)."""
    left, top, right, bottom = window
    image = first.image.copy()
    image[top:bottom, left:right] = second.image[top:bottom, left:right]
    share = np.float32((right - left) * (bottom - top) / (image.shape[0] * image.shape[1]))
    return Picture(image, (1 - share) * first.truth + share * second.truth)


def mosaic(pictures: Sequence[Picture], cut: tuple[int, int]) -> Picture:
    """Four pictures, each seen through its quarter, that meet at ``cut`` (x, y); classes by area."""
    height, width = pictures[0].image.shape[:2]
    x, y = cut
    image, truth = np.empty_like(pictures[0].image), np.zeros_like(pictures[0].truth)
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for picture, (left, top, right, bottom) in zip(pictures, quarters, strict=True):
        image[top:bottom, left:right] = picture.image[top:bottom, left:right]
        truth += np.float32((right - left) * (bottom - top) / (height * width)) * picture.truth
    return Picture(image, truth)


@dataclass(frozen=True)
class LabelledAugmentation:
    """What happens to a classifier's training images.

    Attributes:
        crop: what part of an image is seen.
        colours: hue, saturation, exposure.
        blur: kernel of the blur that a quarter of the images gets; 0 is none.
        mixes: which of MIXES take turns; ``mix`` is the probability that an image is mixed at all.
        label_smooth_eps: what of the truth goes to the other classes.
        photometric: changes of the finished image.
        close_mosaic: share of the run, at its end, in which nothing is mixed.
    """

    crop: RandomCrop
    colours: ColourRange = field(default_factory=ColourRange)
    blur: int = 0
    mixes: tuple[str, ...] = ()
    mix: float = 0.0
    label_smooth_eps: float = 0.0
    photometric: Photometric | None = None
    close_mosaic: float = 0.0

    @classmethod
    def from_config(cls, net: Net) -> LabelledAugmentation:
        """What a cfg asks for."""
        assert net.min_crop is not None and net.max_crop is not None  # [net] derives them
        return cls(
            crop=RandomCrop(net.min_crop, net.max_crop, net.angle, net.aspect, net.flip),
            colours=ColourRange(net.hue, net.saturation, net.exposure),
            blur=_PLAIN_BLUR if net.blur == 1 else net.blur // 2 * 2 + 1 if net.blur else 0,
            mixes=_mixes(net),
            mix=_DARKNET_MIX,
            label_smooth_eps=net.label_smooth_eps,
        )

    def with_flags(self, flags: object) -> LabelledAugmentation:
        """This augmentation with the ``flags`` that are not None; ``mosaic`` is ``mix``, of whatever kind.

        Raises:
            InputError: ``photometric`` names no pipeline.
        """
        given = given_flags(self, flags)
        given["crop"] = replace(self.crop, **given_flags(self.crop, flags))
        if (mix := getattr(flags, "mosaic", None)) is not None:
            given["mix"] = mix
        return replace(self, **given)

    def closed(self, minibatch: int, closing: Callable[[float], int] | None) -> LabelledAugmentation:
        """This augmentation as it is at mini-batch number ``minibatch``.

        Args:
            closing: the first mini-batch of the last part of the run, by that part's share of it; None: it has no end.
        """
        return replace(self, mix=0.0) if closing and minibatch >= closing(self.close_mosaic) else self


def augmentation_of(config: Config, flags: object) -> LabelledAugmentation:
    """What a cfg asks for, and ``flags`` change; see `LabelledAugmentation.with_flags`."""
    return LabelledAugmentation.from_config(config.net).with_flags(flags)


def labelled_picture(
    samples: Samples,
    index: int,
    classes: int,
    augmentation: LabelledAugmentation,
    size: Size,
    rng: np.random.Generator,
) -> tuple[Picture, tuple[int, ...]]:
    """Make the training picture that starts from source ``index``.

    Returns:
        The picture of ``size`` (H, W) with the shares of ``classes``, and the indices of all its sources.
    """
    mix = ""
    if augmentation.mixes and rng.random() < augmentation.mix:
        mix = augmentation.mixes[int(rng.integers(len(augmentation.mixes)))]
    others = rng.integers(len(samples), size={"": 0, "mosaic": 3}.get(mix, 1))
    used = (index, *map(int, others))
    picture = _mixed([_single(samples, i, classes, augmentation, size, rng) for i in used], mix, rng)
    if augmentation.blur and rng.random() < _BLURRED:
        blur(picture.image, _NO_BOXES, augmentation.blur, background=False)
    if augmentation.photometric is not None:
        image = augmentation.photometric.apply(picture.image, seed=int(rng.integers(2**31)))
        picture = replace(picture, image=image)
    return picture, used


def smooth_truth(label: int, classes: int, eps: float) -> np.ndarray:
    """float32 (K,): 1 - eps for ``label``, eps shared by the others (fill_truth_smooth)."""
    if classes == 1:
        return np.ones(1, np.float32)
    truth = np.full(classes, eps / (classes - 1), np.float32)
    truth[label] = 1 - eps
    return truth


def _single(
    samples: Samples,
    index: int,
    classes: int,
    augmentation: LabelledAugmentation,
    size: Size,
    rng: np.random.Generator,
) -> Picture:
    """One source, cropped and coloured."""
    sample = samples[index]
    matrix = augmentation.crop.sample(rng, sample.image.shape[:2], size)
    image = warp(sample.image, matrix, size)
    apply_colour(image, _NO_BOXES, augmentation.colours.sample(rng))
    return Picture(image, smooth_truth(int(sample.labels[0]), classes, augmentation.label_smooth_eps))


def _mixed(pictures: Sequence[Picture], mix: str, rng: np.random.Generator) -> Picture:
    """The first picture, mixed with the others; Darknet draws the rectangle and the cut once an image, too."""
    height, width = pictures[0].image.shape[:2]
    if mix == "mixup":
        return mixup(*pictures)
    if mix == "cutmix":
        across, down = (_part(rng, side, _CUTMIX_SIDE) for side in (width, height))
        left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
        first, second = pictures
        return cutmix(first, second, (left, top, left + across, top + down))
    if mix == "mosaic":
        return mosaic(pictures, (_part(rng, width, _MOSAIC_CUT), _part(rng, height, _MOSAIC_CUT)))
    return pictures[0]


def _part(rng: np.random.Generator, side: int, limits: tuple[float, float]) -> int:
    return int(rng.integers(int(side * limits[0]), int(side * limits[1]) + 1))


def _mixes(net: Net) -> tuple[str, ...]:
    """What takes turns: cutmix=1 and mosaic=1 outdo mixup, as in Darknet's parser."""
    kind = 4 if net.cutmix and net.mosaic else 3 if net.mosaic else 2 if net.cutmix else net.mixup
    return {0: (), 1: MIXES[:1], 2: MIXES[1:2], 3: MIXES[2:], 4: MIXES[1:]}[kind]
