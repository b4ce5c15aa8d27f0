"""The contrastive loss: views of one object get like embeddings, other objects of its class unlike ones.

Darknet's form of SimCLR (arXiv 2002.05709) for detectors: the [contrastive] layer reads an embedding for each
prediction of a [yolo] head, and compares those to which the head assigns an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.heads.yolo import YoloHead
from models.losses.custom_gradient import RawDelta
from models.losses.result import LayerLoss, Losses, sum_of_layers
from models.targets.darknet import Cells, assign, distinct, learnable_truth
from utils.cfg.heads import Contrastive
from utils.structures import Targets, TrackedTargets

_CERTAIN = 0.9999  # the probability of a pair that stands alone, and the most of any


class Embeddings(NamedTuple):
    """The predictions of a head that have an object.

    Attributes:
        cells: where the N of them are, by image, anchor, row and column.
        tracks: int64 (N,), which object.
        labels: int64 (N,), its class.
    """

    cells: Cells
    tracks: Tensor
    labels: Tensor


class ContrastiveLoss:
    """Darknet's training of [contrastive] layers; its cost counts as one of classes.

    Args:
        layers: of each its section, and the head that knows the objects.
    """

    def __init__(self, layers: Sequence[tuple[Contrastive, YoloHead]]) -> None:
        self.layers = tuple(layers)

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch; zero where the targets do not say which boxes show the same object.

        Args:
            raws: float32 (B, A*F, GH, GW) for each layer, embeddings of F values for each anchor of its head.
            targets: the truth in pixels of the network input; `TrackedTargets`, or there is nothing to learn.
        """
        return sum_of_layers(self._layer(*layer, raw, targets) for layer, raw in zip(self.layers, raws, strict=True))

    def _layer(self, section: Contrastive, head: YoloHead, raw: Tensor, targets: Targets) -> LayerLoss:
        with torch.no_grad():
            grid = raw.detach().unflatten(1, (head.num_anchors, -1)).movedim(2, -1)  # (B, A, GH, GW, F)
            delta = torch.zeros_like(grid)
            if isinstance(targets, TrackedTargets):
                found = embeddings(head, raw, targets)
                pull = contrastive_delta(
                    grid[found.cells], found.tracks, found.labels, section.temperature, section.contrastive_neg_max
                )
                delta[found.cells] = (section.cls_normalizer * pull).clamp(-section.max_delta, section.max_delta)
            cost = delta.square().sum() / len(self.layers)
            flat = delta.movedim(-1, 2).reshape(raw.shape)
        costs = torch.stack((torch.zeros_like(cost), torch.zeros_like(cost), cost))
        return LayerLoss(RawDelta.apply(raw, cost, flat), costs, cost.new_zeros(0))


def embeddings(head: YoloHead, raw: Tensor, targets: TrackedTargets) -> Embeddings:
    """Which predictions the head assigns an object; of several the last.

    Args:
        raw: (B, A*F, GH, GW), for its grid.
    """
    section, (batch, _, *grid) = head.section, raw.shape
    height, width = size = head.input_size(raw)
    wanted = (targets.labels >= 0) & (targets.labels < head.num_classes)
    known = TrackedTargets(*(part[wanted] for part in targets))
    truth = learnable_truth(known, batch, size, head.num_classes).to(raw.device)
    as_labels = known._replace(labels=known.tracks)  # so that the same boxes are left out
    tracks = learnable_truth(as_labels, batch, size, torch.iinfo(torch.int64).max).to(raw.device).labels
    anchors = head.all_anchors / head.all_anchors.new_tensor((width, height))
    learners = assign(truth, anchors, section.mask, (grid[0], grid[1]), section.iou_thresh, section.iou_thresh_kind)
    slots = distinct(learners.cells, (batch, head.num_anchors, *grid))
    last = learners.truth[slots.last]
    return Embeddings(slots.cells, tracks[last], truth.labels[last])


def contrastive_delta(vectors: Tensor, tracks: Tensor, labels: Tensor, temperature: float, negatives: int) -> Tensor:
    """Darknet's direction of falling contrastive loss for N embeddings (N, F): its `grad_contrastive_loss_*_f`.

    An embedding goes to those of its object and away from others of its class. Of these only the first count, in the
    order of the embeddings, ``negatives`` of them over all its object's other views. Lengths are not normalised, but
    for that of the embedding itself.

    Args:
        vectors: (N, F).
        tracks, labels: int64 (N,); all views of an object have its class.
    """
    vectors = vectors.double()  # differences of exponentials
    length = vectors.norm(dim=1)
    outer = length[:, None] * length
    similarity = torch.where(outer > 0, vectors @ vectors.T / outer, 0)
    comparable = labels[:, None] == labels
    comparable.fill_diagonal_(False)
    same = comparable & (tracks[:, None] == tracks)
    views = same.sum(dim=1)
    odds = torch.where(comparable, (similarity / temperature).exp(), 0)
    others = odds.sum(dim=0) - odds  # of all pairs with the second of a pair, but for that with the first
    probability = torch.where(others > 0, odds / others, _CERTAIN)
    probability = torch.where(probability > 1, _CERTAIN, probability)
    repulsion = _times_met(comparable & ~same, views, max(1, negatives)) * probability
    pull = same * (1 - probability) - repulsion
    scale = views * temperature * length
    direction = pull @ vectors - (pull * similarity).sum(dim=1, keepdim=True) * vectors
    return torch.where(scale[:, None] > 0, direction / scale[:, None], 0).float()


def _times_met(strangers: Tensor, views: Tensor, most: int) -> Tensor:
    """How often each embedding meets each other (N, N) that goes round its ``strangers`` once for each of its views.

    Args:
        strangers: bool (N, N).
        views: (N,).
        most: meetings after which it stops.
    """
    rank = strangers.cumsum(dim=1) - 1
    count = strangers.sum(dim=1, keepdim=True).clamp(min=1)
    rounds = (most - rank + count - 1).div(count, rounding_mode="floor").clamp(min=0)
    return torch.where(strangers, torch.minimum(rounds, views[:, None]), 0)
