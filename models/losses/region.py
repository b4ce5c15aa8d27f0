"""YOLOv2's loss: the deltas of Darknet's [region] layer, attached to the raw heads as a custom gradient.

They are those of squared errors on what the layer puts out, sigmoids included, and of cross-entropy for the classes
(`forward_region_layer`); every prediction is held to the truth, so nothing is sparse here as in the YOLO loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.heads.region import RegionHead
from models.losses.class_delta import class_multipliers
from models.losses.custom_gradient import RawDelta
from models.losses.region_class import class_delta, tree_class_delta
from models.losses.result import LayerLoss, Losses, sum_of_layers
from models.targets.darknet import (
    Cells,
    Learners,
    Truth,
    assign,
    best_overlap,
    crowd_coverage,
    distinct,
    join,
    learnable_truth,
)
from utils import boxes as box_ops
from utils.structures import Size, Targets

PRIOR_IMAGES = 12800  # so many images long, boxes are drawn to their anchors
_PRIOR_SCALE = 0.01


class RegionLoss:
    """Darknet's training of [region] heads, by the keys of their sections.

    Args:
        heads: the heads in cfg order.
        seen: says how many images the network was trained on.
    """

    def __init__(self, heads: Sequence[RegionHead], seen: Callable[[], int]) -> None:
        self.heads = tuple(heads)
        self.seen = seen
        self._maps = [head.class_map() for head in heads]

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch.

        Args:
            raws: float32 (B, A*(coords+1+K), GH, GW) for each head.
            targets: the truth in pixels of the network input, on any device.
        """
        return sum_of_layers(self._head(*parts, targets) for parts in zip(self.heads, self._maps, raws, strict=True))

    def _head(self, head: RegionHead, class_map: Tensor | None, raw: Tensor, targets: Targets) -> LayerLoss:
        size = head.input_size(raw)
        with torch.no_grad():
            truth = learnable_truth(
                targets, raw.shape[0], size, head.num_classes if class_map is None else len(class_map)
            )
            if class_map is not None:
                truth = truth._replace(labels=class_map.to(truth.labels.device)[truth.labels])
            head_pass = RegionPass(head, raw.detach(), truth.to(raw.device), size)
            delta, iou = head_pass.delta(prior=self.seen() < PRIOR_IMAGES)
            at = head.box_entries
            parts = (delta[..., :at], delta[..., at], delta[..., at + 1 :])
            costs = torch.stack([part.square().sum() for part in parts]) / len(self.heads)
            flat = delta.movedim(-1, 2).reshape(raw.shape)
        return LayerLoss(RawDelta.apply(raw, costs.sum(), flat), costs, iou)


class _Boxes(NamedTuple):
    """Deltas of the four box outputs of the P assigned predictions (P, 4), and their IoU with the truth (P,)."""

    delta: Tensor
    iou: Tensor


class RegionPass:
    """One head, its raw map and the truth; `delta` is what it is for.

    Args:
        raw: (B, A*E, GH, GW), without gradient.
        size: (H, W) of the network input.
    """

    def __init__(self, head: RegionHead, raw: Tensor, truth: Truth, size: Size) -> None:
        self.head, self.section, self.truth = head, head.section, truth
        self.outputs = head.activate_entries(head.grid(raw).movedim(2, -1))  # (B, A, GH, GW, E)
        self.grid_size: Size = (raw.shape[2], raw.shape[3])
        self.anchors = head.anchors / head.anchors.new_tensor((size[1], size[0]))
        objectness = self.outputs[..., head.box_entries]
        self.multipliers = class_multipliers(self.section, raw.device)
        # With a background class this output is part of a softmax, whose delta needs no slope.
        self.slope = torch.ones_like(objectness) if self.section.background else objectness * (1 - objectness)

    def delta(self, *, prior: bool) -> tuple[Tensor, Tensor]:
        """Darknet's delta (B, A, GH, GW, E) of all outputs, and the IoU (P,) of the assigned predictions.

        Args:
            prior: draw all boxes to their anchors, as at the start of a training.
        """
        delta = torch.zeros_like(self.outputs)
        if prior:
            delta[..., :4] = self._prior()
        delta[..., self.head.box_entries], learners = self._compare()
        learners = join(learners, self._assigned())
        if len(learners.truth) == 0:
            return delta, delta.new_zeros(0)
        boxes = self._boxes(learners)
        self._write_last(delta, learners, boxes)
        self._write_classes(delta, learners)
        return delta, boxes.iou[~learners.by_overlap]

    def _prior(self) -> Tensor:
        """(B, A, GH, GW, 4): towards the middle of the cell and the size of the anchor."""
        xy, wh = self.outputs[..., :4].split(2, -1)
        return _PRIOR_SCALE * torch.cat(((0.5 - xy) * xy * (1 - xy), -wh), -1)

    def _compare(self) -> tuple[Tensor, Learners]:
        """Objectness delta (B, A, GH, GW) before any assignment; the predictions that learn a class as they lie on it.

        Background everywhere, but for predictions on a box (above ``thresh``) or in a crowd; with ``classfix=-1``
        every prediction aims at its IoU instead.
        """
        section, objectness = self.section, self.outputs[..., self.head.box_entries]
        cells = Cells(*torch.ones_like(objectness, dtype=torch.bool).nonzero(as_tuple=True))
        predicted = self._predicted(cells)
        overlap, nearest = best_overlap(cells.image, predicted, self.truth)
        on_box = overlap > section.thresh
        aim: Tensor | float
        if section.classfix == -1:
            aim, excused = overlap.view_as(objectness), torch.zeros_like(on_box)
        else:
            aim, excused = float(section.background), on_box
        if self.truth.crowds.shape[1]:
            excused = excused | (crowd_coverage(cells.image, predicted, self.truth) > section.thresh)
        delta = section.noobject_scale * (aim - objectness) * self.slope
        learns = on_box & (section.classfix > 0)
        learners = Learners(cells.select(learns), nearest[learns], learns[learns], overlap[learns])
        return delta.masked_fill(excused.view_as(delta), 0), learners

    def _assigned(self) -> Learners:
        """For every truth the prediction in its cell whose anchor has its shape, or (``bias_match=0``) which has it."""
        mask = tuple(range(self.head.num_anchors))
        by_anchor = assign(self.truth, self.anchors, mask, self.grid_size, 1.0, "iou")
        if self.section.bias_match or len(by_anchor.truth) == 0:
            return by_anchor
        cells = by_anchor.cells
        shapes = self.outputs[cells.image, :, cells.row, cells.column, 2:4].exp() * self.anchors  # (T, A, 2)
        wanted = self.truth.boxes_cxcywhn[by_anchor.truth, 2:]
        overlap = box_ops.iou(_centred(shapes), _centred(wanted)[:, None].expand(*shapes.shape[:2], 4))
        return by_anchor._replace(cells=cells._replace(anchor=overlap.argmax(dim=1)))

    def _boxes(self, learners: Learners) -> _Boxes:
        """What the box outputs of each learner lack."""
        truth, cells = self.truth.boxes_cxcywhn[learners.truth], learners.cells
        rows, columns = self.grid_size
        xy, wh = self.outputs[cells][:, :4].split(2, 1)
        target_xy = truth[:, :2] * truth.new_tensor((columns, rows)) - torch.stack((cells.column, cells.row), 1)
        target_wh = (truth[:, 2:] / self.anchors[cells.anchor]).log()
        delta = torch.cat(((target_xy - xy) * xy * (1 - xy), target_wh - wh), 1)
        iou = box_ops.iou(self._predicted(cells), box_ops.cxcywh_to_xyxy(truth))
        return _Boxes(self.section.coord_scale * delta, iou)

    def _write_last(self, delta: Tensor, learners: Learners, boxes: _Boxes) -> None:
        """Box and objectness of the assigned predictions, in place; of several boxes the last is learnt."""
        slots = distinct(learners.cells, self.slope.shape)
        last = slots.last[~learners.by_overlap[slots.last]]
        cells = learners.cells.select(last)
        multipliers = self.multipliers[self.truth.labels[learners.truth[last]]]
        delta[(*cells, slice(0, 4))] = multipliers[:, None] * boxes.delta[last]
        objectness = self.outputs[cells][:, self.head.box_entries]
        aim = boxes.iou[last] if self.section.rescore else 1.0
        aim = 0.0 if self.section.background else aim
        pull = self.section.object_scale * (aim - objectness) * self.slope[cells]
        delta[(*cells, self.head.box_entries)] = multipliers * pull

    def _write_classes(self, delta: Tensor, learners: Learners) -> None:
        """Class deltas where a box is learnt or lain on, in place."""
        section, slots = self.section, distinct(learners.cells, self.slope.shape)
        labels, tree = self.truth.labels[learners.truth], self.head.class_tree(delta.device)
        weights = section.class_scale * self.multipliers[labels]
        if section.classfix == 2:  # those that only lie on a box learn as much as they believe in it
            objectness = self.outputs[learners.cells][:, self.head.box_entries]
            weights = torch.where(learners.by_overlap, weights * objectness, weights)
        probs = self.outputs[slots.cells][:, self.head.box_entries + 1 :]
        if tree is None:
            found = class_delta(probs, labels[slots.last], weights[slots.last], focal=section.focal_loss)
        else:
            found = tree_class_delta(tree, probs, labels, weights, slots)
        delta[(*slots.cells, slice(self.head.box_entries + 1, None))] = found

    def _predicted(self, cells: Cells) -> Tensor:
        """Boxes (N, 4) xyxy relative to the input that the head predicts at ``cells``."""
        rows, columns = self.grid_size
        x, y, width, height = self.outputs[cells][:, :4].unbind(1)
        width, height = (torch.stack((width, height), 1).exp() * self.anchors[cells.anchor]).unbind(1)
        centre = (x + cells.column) / columns, (y + cells.row) / rows
        return box_ops.cxcywh_to_xyxy(torch.stack((*centre, width, height), 1))


def _centred(wh: Tensor) -> Tensor:
    return torch.cat((-wh / 2, wh / 2), -1)
