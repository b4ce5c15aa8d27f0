"""Darknet's multi-scale training: the input size of each mini-batch, and how many images of that size it holds."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from data.loading.batch_loader import SCALE
from utils.keyed_random import keyed_rng
from utils.structures import Size

_SPARED = 0.8  # of the images that memory would allow: Darknet's margin for dynamic_minibatch


@dataclass(frozen=True)
class MultiScale:
    """The input size of each mini-batch: Darknet's ``random``, as a pure function of the mini-batch number.

    Attributes:
        size: (H, W) of the cfg.
        factor: sizes go from 1/factor to factor of it; 1 is a fixed size. Darknet's ``random=1`` means 1.4.
        step: sizes are multiples of this ([net] ``resize_step``).
        seed: of the run.
        every: iterations between changes.
        subdivisions: mini-batches to an iteration.
        max_batches: iterations of the whole training; its last hundred have the largest size, as the first ones have,
            so that memory that does not suffice shows at once. None: no end is known.
    """

    size: Size
    factor: float = 1.0
    step: int = 32
    seed: int = 0
    every: int = 10
    subdivisions: int = 1
    max_batches: int | None = None

    def __call__(self, minibatch: int) -> Size:
        """(H, W) of mini-batch number ``minibatch``."""
        if self.factor == 1:
            return self.size
        iteration = minibatch // self.subdivisions
        period = iteration // self.every
        ending = self.max_batches is not None and iteration > self.max_batches - 100
        if period == 0 or ending:
            return self._scaled(max(self.factor, 1 / self.factor))
        return self._scaled(_draw(self.seed, period, self.factor))

    @property
    def largest(self) -> Size:
        """The largest (H, W) that can come."""
        return self.size if self.factor == 1 else self._scaled(max(self.factor, 1 / self.factor))

    def _scaled(self, scale: float) -> Size:
        """Each side times ``scale``, one step more and rounded; shrinking never enlarges (train_detector)."""
        sides = []
        for side in self.size:
            new = max(1, math.floor(scale * side / self.step + 1 + 0.5)) * self.step
            sides.append(min(new, side) if scale < 1 else new)
        return sides[0], sides[1]


@dataclass(frozen=True)
class FixedMinibatch:
    """The positions of the stream of images that a mini-batch holds: ``batch`` each."""

    batch: int

    def __call__(self, minibatch: int) -> range:
        """Positions of mini-batch number ``minibatch``."""
        return range(minibatch * self.batch, (minibatch + 1) * self.batch)


class DynamicMinibatch:
    """Darknet's ``dynamic_minibatch``: of smaller images a mini-batch holds more, so that memory stays in use.

    The largest size gets ``batch`` images. Another gets as many as have the same number of pixels, less a fifth where
    that is still more than ``batch`` (resize_network in train_detector).

    Args:
        batch: images of a mini-batch in the cfg.
        sizes: of the mini-batches.
        total: mini-batches of the whole training.
    """

    def __init__(self, batch: int, sizes: MultiScale, total: int) -> None:
        self.subdivisions = sizes.subdivisions
        steps = range(0, total, self.subdivisions)
        self._images = np.array([_images(batch, sizes.largest, sizes(first)) for first in steps], np.int64)
        ends = np.cumsum(self._images * self.subdivisions)
        self._starts = ends - self._images * self.subdivisions

    def __call__(self, minibatch: int) -> range:
        """Positions of mini-batch number ``minibatch``."""
        step, part = divmod(minibatch, self.subdivisions)
        images = int(self._images[step])
        start = int(self._starts[step]) + part * images
        return range(start, start + images)


def _images(batch: int, largest: Size, size: Size) -> int:
    """Images of ``size`` in a mini-batch that has ``batch`` of the ``largest``."""
    fitting = batch * largest[0] * largest[1] // (size[0] * size[1])
    spared = int(fitting * _SPARED)
    return spared if spared > batch else fitting


@functools.lru_cache(maxsize=4)
def _draw(seed: int, period: int, factor: float) -> float:
    """The factor on the size in one period."""
    rng = keyed_rng(seed, SCALE, period)
    scale = float(rng.uniform(1.0, max(factor, 1 / factor)))
    return scale if rng.random() < 0.5 else 1 / scale
