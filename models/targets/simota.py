"""Which predictions learn a box in SimOTA: those that fit it best, as many as the box has good ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.targets.by_shape import Matches

IOU_COST = 3.0  # weight of -log IoU beside the classes' cross-entropy
BEST = 10  # the summed IoU of so many candidates is how many predictions learn a box


class Candidate(NamedTuple):
    """Pairs of a prediction and a box it might learn, those of all heads in one list.

    Attributes:
        place: int64 (C,), one number for each prediction of the network.
        truth: int64 (C,), the box.
        iou: (C,), of the prediction with the box.
        classes: (C,), cross-entropy of the prediction's scores with the box's class.
    """

    place: Tensor
    truth: Tensor
    iou: Tensor
    classes: Tensor

    @property
    def cost(self) -> Tensor:
        """What it costs the prediction to learn the box (arXiv 2107.08430, eq. 1): (C,)."""
        return self.classes - IOU_COST * (self.iou + 1e-8).log()


def choose(candidates: Candidate) -> Tensor:
    """bool (C,): the pairs that learn (arXiv 2107.08430, section 2.3).

    Each box takes its k cheapest predictions, where k is the sum of its ten largest IoUs, cut to a whole number and
    at least 1. A prediction that several boxes want learns the cheapest of them.
    """
    cost, truth = candidates.cost, candidates.truth
    count = int(truth.max()) + 1 if len(truth) else 0
    best = rank_within(truth, -candidates.iou) < BEST
    quota = candidates.iou.new_zeros(count).index_add(0, truth[best], candidates.iou[best]).long().clamp(min=1)
    chosen = rank_within(truth, cost) < quota[truth]
    return chosen & (rank_within(candidates.place, torch.where(chosen, cost, torch.inf)) == 0)


def rank_within(group: Tensor, values: Tensor) -> Tensor:
    """int64 (C,): how many of the same group come before each, by rising value; of equals the first comes first."""
    order = values.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]  # by group, and within it by value
    _, counts = group[order].unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return rank


def split(chosen: Tensor, candidates: Sequence[Matches]) -> list[Matches]:
    """The chosen pairs (C,) head by head again."""
    masks = chosen.split([len(matches.truth) for matches in candidates])
    return [matches.select(mask) for matches, mask in zip(candidates, masks, strict=True)]
