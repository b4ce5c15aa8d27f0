"""The loss of a mini-batch, and how it adds up over the layers that have one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """The loss of a mini-batch; all but ``total`` are detached scalars.

    Attributes:
        total: its gradient is minus Darknet's delta, summed over images and heads; its value is the cost Darknet
            prints before it divides by the images: the mean over the heads.
        box, objectness, classes: the three parts of that value.
        mean_iou: of the assigned predictions with their boxes, 0 without any.
        positives: how many predictions were assigned, counted once for each box.
    """

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor
    mean_iou: Tensor
    positives: Tensor


class LayerLoss(NamedTuple):
    """What one layer, a head or a [contrastive], contributes.

    Attributes:
        total: a scalar with the layer's gradient.
        costs: (3,) of box, objectness and classes, detached.
        iou: (P,) of the assigned predictions with their boxes.
    """

    total: Tensor
    costs: Tensor
    iou: Tensor


def sum_of_layers(layers: Iterable[LayerLoss]) -> Losses:
    """The loss of all layers together."""
    totals, costs, ious = zip(*layers, strict=True)
    box, objectness, classes = torch.stack(costs).sum(dim=0)
    iou = torch.cat(ious)
    positives = torch.tensor(len(iou), device=iou.device)
    return Losses(torch.stack(totals).sum(), box, objectness, classes, iou.sum() / max(len(iou), 1), positives)
