"""What the heads of a network contribute to its loss, and their sum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from models.losses.darknet import Losses


class Term(NamedTuple):
    """What one head contributes.

    Attributes:
        total: a scalar with the head's gradient.
        costs: (3,) of box, objectness and classes, detached.
        iou: (P,) of the assigned predictions with their boxes.
    """

    total: Tensor
    costs: Tensor
    iou: Tensor


def sum_of(terms: Iterable[Term]) -> Losses:
    """The loss of all heads together."""
    totals, costs, ious = zip(*terms, strict=True)
    box, objectness, classes = torch.stack(costs).sum(dim=0)
    iou = torch.cat(ious)
    positives = torch.tensor(len(iou), device=iou.device)
    return Losses(torch.stack(totals).sum(), box, objectness, classes, iou.sum() / max(len(iou), 1), positives)
