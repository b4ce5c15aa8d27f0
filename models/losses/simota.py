"""The loss of Scaled-YOLOv4 with SimOTA: the network's own predictions decide which of them learn a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.heads.yolo import YoloHead
from models.losses.scaled import ScaledLoss, bounded, truth_boxes
from models.targets.by_shape import Matches
from models.targets.darknet import Truth, places
from models.targets.simota import Candidate, choose, split
from utils import boxes as box_ops
from utils.structures import Size


class SimotaLoss(ScaledLoss):
    """`ScaledLoss` whose positives are chosen anew in each step (SimOTA, arXiv 2107.08430, section 2.3).

    The candidates are the predictions of all heads that can reach the box, which are those `ScaledLoss` lets learn
    it: near its centre, with an anchor of its shape. That is the centre prior of a network with anchors.
    """

    @torch.no_grad()
    def assign(self, raws: Sequence[Tensor], truth: Truth, size: Size) -> list[Matches]:
        """The predictions of each head that learn a box."""
        candidates = super().assign(raws, truth, size)
        parts, before = [], 0
        for head, raw, matches in zip(self.heads, raws, candidates, strict=True):
            parts.append(_candidate(head, raw, truth, matches, size, before))
            before += raw[:, 0].numel() * head.num_anchors
        return split(choose(Candidate(*map(torch.cat, zip(*parts, strict=True)))), candidates)


def _candidate(head: YoloHead, raw: Tensor, truth: Truth, matches: Matches, size: Size, before: int) -> Candidate:
    """The pairs of one head, whose predictions are numbered from ``before``."""
    cells, index = matches
    grid = head.grid(raw)
    entries = bounded(head, grid[cells.image, cells.anchor, :, cells.row, cells.column])
    predicted = head.decode_cells(entries, cells.anchor, cells.row, cells.column)
    actual = truth_boxes(truth, size)[index].to(predicted.boxes.dtype)
    scores = (predicted.class_probs * predicted.objectness[:, None]).sqrt()  # as in the authors' code
    own = F.one_hot(truth.labels[index], head.num_classes).to(scores.dtype)
    classes = F.binary_cross_entropy(scores.clamp(0, 1), own, reduction="none").sum(dim=1)
    place = before + places(cells, (len(raw), head.num_anchors, *raw.shape[2:]))
    return Candidate(place, index, box_ops.iou(predicted.boxes, actual), classes)
