"""How often a classifier is right: top-1, top-5, and for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

_TOP = 5


@dataclass(frozen=True)
class ClassAccuracy:
    """Of the ``images`` of a class, the share it was the first guess for; -1 where there are none."""

    accuracy: float
    images: int


@dataclass(frozen=True)
class TopK:
    """Shares of all images.

    Attributes:
        top1: the label has the highest score.
        top5: it is among the five highest.
        images: how many there were.
        per_class: by name.
    """

    top1: float
    top5: float
    images: int
    per_class: dict[str, ClassAccuracy]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for json."""
        return asdict(self)


class TopKCounter:
    """Counts mini-batch by mini-batch.

    Args:
        names: of the classes.
        shares: what other counters counted, of other images; to begin with.

    Attributes:
        counts: int64 (3, K), of each class: its images, and for how many it was the first guess, or among five.
    """

    def __init__(self, names: Sequence[str], shares: Sequence[Tensor] = ()) -> None:
        self._names = tuple(names)
        self.counts = sum(shares, torch.zeros(3, len(names), dtype=torch.int64))

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count (B, K) scores of images whose labels are int64 (B,)."""
        ranks = label_ranks(logits.cpu(), labels.cpu())
        for count, chosen in zip(self.counts, (ranks >= 0, ranks < 1, ranks < _TOP), strict=True):
            count += torch.bincount(labels.cpu()[chosen], minlength=len(self._names))

    def result(self) -> TopK:
        """The shares so far, of at least one image."""
        images, first, among = self.counts
        total = int(images.sum())
        pairs = zip(self._names, first.tolist(), images.tolist(), strict=True)
        per_class = {name: ClassAccuracy(right / count if count else -1.0, count) for name, right, count in pairs}
        return TopK(int(first.sum()) / total, int(among.sum()) / total, total, per_class)


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """The place of each label among the scores of its image, from 0; of equal scores the lower class comes first.

    Args:
        logits: (B, K).
        labels: int64 (B,).
    """
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(1)
