"""Two views of each image in neighbouring places of a mini-batch, and which of their boxes show one object.

Darknet's pairs for [contrastive] layers, ``contrastive=1`` in [net].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.augment.detection import Draws, Samples
from utils.cfg.net import Net
from utils.errors import UsageError
from utils.keyed_random import keyed_rng
from utils.structures import ImageRecord, Sample, Targets, TrackedTargets

_VIEWS = 2


@dataclass(frozen=True)
class Views:
    """How the two views of an image differ; both are made of the same sources.

    Attributes:
        motion: each is moved on its own ([net] ``contrastive_jit_flip``).
        colour: each is coloured on its own ([net] ``contrastive_color``).
    """

    motion: bool = True
    colour: bool = True

    @classmethod
    def from_config(cls, net: Net, ranks: int = 1) -> Views | None:
        """What a cfg asks for; None without ``contrastive``.

        Args:
            ranks: processes that share a mini-batch.

        Raises:
            UsageError: mini-batches too small for a pair.
        """
        if not net.contrastive:
            return None
        if net.batch // net.subdivisions // ranks < _VIEWS:
            raise UsageError(
                f"contrastive=1: batch={net.batch} in subdivisions={net.subdivisions} leaves less than two images to "
                "compare; give a larger --batch, or fewer --subdivisions or processes"
            )
        return cls(net.contrastive_jit_flip, net.contrastive_color)

    def source(self, position: int) -> tuple[int, int]:
        """Which image of the stream stands at ``position``, and which view of it."""
        return divmod(position, _VIEWS)

    def draws(self, key: tuple[int, ...], view: int) -> Draws:
        """The generators of one view of the image that ``key`` belongs to."""
        return Draws(
            keyed_rng(*key),
            keyed_rng(*key, 1 + view * self.motion),
            keyed_rng(*key, 1 + _VIEWS + view * self.colour),
        )


class TrackedSamples:
    """Samples whose labels tell the box, too, as ``label + classes * track``; augmentation only hands labels on.

    Args:
        samples: of ``records``.
        classes: K.
    """

    def __init__(self, samples: Samples, records: Sequence[ImageRecord], classes: int) -> None:
        self._samples, self._classes = samples, classes
        counts = [len(record.labels) for record in records]
        self._first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``."""
        sample = self._samples[index]
        tracks = self._first[index] + np.arange(len(sample.labels))
        return replace(sample, labels=sample.labels + self._classes * tracks)


def tracked(targets: Targets, classes: int) -> TrackedTargets:
    """The truth made of `TrackedSamples`, with labels and tracks apart."""
    return TrackedTargets(*targets._replace(labels=targets.labels % classes), tracks=targets.labels // classes)
