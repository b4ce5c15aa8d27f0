"""Gaussian YOLOv3's loss: the deltas of Darknet's [Gaussian_yolo] layer, attached to the raw heads.

The head names a mean and an uncertainty for each coordinate. The means learn either the likelihood of the truth under
those Gaussians or, as [yolo] does, the overlap; the uncertainties learn the likelihood in any case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.heads.gaussian import GaussianYoloHead
from models.losses.box_delta import iou_delta
from models.losses.class_delta import class_delta
from models.losses.custom_gradient import HeadDelta
from models.losses.darknet_head import Deltas, HeadPass
from models.losses.result import LayerLoss, Losses, sum_of_layers
from models.targets.darknet import Cells, Learners, assign, best_overlap, distinct, join, learnable_truth
from utils.structures import Targets

_LEAST_SIGMA = 0.3  # added to an uncertainty where its logarithm would grow without bound
_EPSILON = 1e-9  # likelihoods below it teach nothing


class GaussianLoss:
    """Darknet's training of [Gaussian_yolo] heads, by the keys of their sections.

    Args:
        heads: the heads in cfg order.
    """

    def __init__(self, heads: Sequence[GaussianYoloHead]) -> None:
        self.heads = tuple(heads)

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch.

        Args:
            raws: float32 (B, A*(9+K), GH, GW) for each head.
            targets: the truth in pixels of the network input, on any device.
        """
        return sum_of_layers(self._head(head, raw, targets) for head, raw in zip(self.heads, raws, strict=True))

    def _head(self, head: Any, raw: Tensor, targets: Targets) -> LayerLoss:
        size, at = head.input_size(raw), head.box_entries
        with torch.no_grad():
            truth = learnable_truth(targets, raw.shape[0], size, head.num_classes).to(raw.device)
            deltas = GaussianPass(head, raw.detach(), truth, size).deltas()
            parts = (deltas.rows[:, :at], deltas.objectness, deltas.rows[:, at + 1 :])
            costs = torch.stack([part.square().sum() for part in parts]) / len(self.heads)
        scale = head.section.delta_normalizer
        total = HeadDelta.apply(raw, costs.sum(), deltas.objectness * scale, deltas.cells, deltas.rows * scale, at)
        return LayerLoss(total, costs, deltas.iou)


class GaussianPass(HeadPass):
    """One [Gaussian_yolo] head, its raw map and the truth: Darknet's `forward_gaussian_yolo_layer`."""

    head: Any  # a GaussianYoloHead, and its section
    section: Any

    def deltas(self) -> Deltas:
        """Darknet's delta of this head, ``rows`` (U, 9+K)."""
        objectness = self.grid[:, :, self.head.box_entries].sigmoid()
        delta = -self.section.obj_normalizer * objectness
        on_box, by_overlap = self._lying_on_boxes(objectness, delta)
        assigned = self._assigned()
        learners = join(join(on_box, by_overlap), assigned)
        slots = distinct(learners.cells, objectness.shape)
        labels = self.truth.labels[learners.truth]
        pull = self.multipliers[labels] * self.section.obj_normalizer * (1 - objectness[learners.cells])
        is_assigned = slots.last >= len(labels) - len(assigned.truth)
        at_slots = torch.where(is_assigned, pull[slots.last], delta[slots.cells])  # the last box decides
        delta[slots.cells] = at_slots
        outputs = self.head.activate_entries(self._entries(slots.cells, slice(None)))  # (U, 9+K)
        box, probs = outputs[:, : self.head.box_entries], outputs[:, self.head.box_entries + 1 :]
        classes = class_delta(self.section, probs, labels, learners, slots, self.multipliers)
        predicted = self._boxes_cxcywhn(box, slots.cells)[slots.index]  # (P, 4)
        boxes = self._box_delta(box[slots.index], predicted, labels, learners)
        boxes[: len(on_box.truth)] = 0  # these learn only what the object is
        boxes = torch.zeros_like(box).index_put((slots.index,), boxes, accumulate=True)
        boxes = boxes / (classes > 0).sum(dim=1, keepdim=True).clamp(min=1)
        rows = torch.cat((boxes, at_slots[:, None], classes), dim=1)
        return Deltas(
            delta, slots.cells, rows, *self._agreement(predicted[len(labels) - len(assigned.truth) :], assigned)
        )

    def _lying_on_boxes(self, objectness: Tensor, delta: Tensor) -> tuple[Learners, Learners]:
        """First pass, over predictions; writes their objectness into ``delta``, in place.

        Returns:
            Those that learn the class of the box they lie on (``objectness_smooth``), and those that learn all of it.
        """
        section = self.section
        confident = self._confident()
        cells = Cells(*torch.ones_like(confident).nonzero(as_tuple=True))
        overlap, nearest = best_overlap(cells.image, self._boxes_at(cells), self.truth)
        on_box, learns = confident[cells] & (overlap > section.ignore_thresh), overlap > section.truth_thresh
        aim = overlap.square() if section.objectness_smooth else torch.ones_like(overlap)
        pull = section.obj_normalizer * (aim - objectness[cells])
        delta[cells.select(on_box)] = pull[on_box] if section.objectness_smooth else 0
        if self.truth.crowds.shape[1]:
            self._excuse_crowds(delta)
        delta[cells.select(learns)] = pull[learns]
        on_box &= ~learns if section.objectness_smooth else torch.zeros_like(learns)
        smooth, whole = (
            Learners(cells.select(those), nearest[those], learns[those], overlap[those]) for those in (on_box, learns)
        )
        return smooth, whole

    def _assigned(self) -> Learners:
        """Second pass, over truths: in the cell of the point of a box that the head predicts."""
        section, boxes = self.section, self.truth.boxes_cxcywhn
        points = torch.cat((self._points(boxes), boxes[:, 2:]), dim=1)
        truth = self.truth._replace(boxes_cxcywhn=points)
        return assign(
            truth, self.all_anchors, section.mask, self.grid_size, section.iou_thresh, section.iou_thresh_kind
        )

    def _points(self, boxes: Tensor) -> Tensor:
        """The centre or corner (N, 2) of boxes (N, 4) cxcywh that the head predicts."""
        return boxes[:, :2] - self.head.centre_shift * boxes[:, 2:]

    def _box_delta(self, outputs: Tensor, predicted: Tensor, labels: Tensor, learners: Learners) -> Tensor:
        """Delta (P, 8) that each learner adds to the means and uncertainties of its prediction."""
        section = self.section
        truth = self.truth.boxes_cxcywhn[learners.truth]
        means, sigmas = outputs.unflatten(1, (4, 2)).unbind(2)  # (P, 4) each
        error = (self._box_targets(truth, learners.cells) - means) / sigmas
        likelihood = (-error.square() / 2).exp() / (math.sqrt(2 * math.pi) * (sigmas + _LEAST_SIGMA))
        weight = (2 - truth[:, 2:].prod(dim=1, keepdim=True)) / 2 * likelihood / (likelihood + _EPSILON)
        if section.iou_loss == "mse":
            mean_delta = weight * error / sigmas
        else:
            mean_delta = self._overlap_delta(predicted, truth, means)
        mean_delta = section.iou_normalizer * self.multipliers[labels][:, None] * mean_delta
        sigma_delta = section.uc_normalizer * weight * (error.square() / sigmas - 1 / (sigmas + _LEAST_SIGMA))
        delta = torch.stack((mean_delta, sigma_delta), dim=2).flatten(1)
        return delta.nan_to_num(0, 0, 0).clamp(-section.max_delta, section.max_delta)

    def _overlap_delta(self, predicted: Tensor, truth: Tensor, means: Tensor) -> Tensor:
        """As in [yolo], (P, 4); where a corner is predicted, its place changes the box with the size."""
        delta = iou_delta(self.section.iou_loss, predicted, truth)
        xy = delta[:, :2] - self.head.centre_shift * delta[:, 2:]
        return torch.cat((xy, delta[:, 2:] * means[:, 2:].exp()), dim=1)

    def _box_targets(self, truth: Tensor, cells: Cells) -> Tensor:
        """The means (N, 4) that stand for boxes (N, 4) cxcywhn."""
        rows, columns = self.grid_size
        x, y = (self._points(truth) * truth.new_tensor((columns, rows))).unbind(1)
        wh = (truth[:, 2:] / self.anchors[cells.anchor]).log()
        return torch.cat(((x - cells.column)[:, None], (y - cells.row)[:, None], wh), dim=1)

    def _boxes_cxcywhn(self, outputs: Tensor, cells: Cells) -> Tensor:
        """Boxes (N, 4) that the means among the box outputs (N, 8) stand for."""
        rows, columns = self.grid_size
        x, y, *sides = outputs[:, 0::2].unbind(1)
        wh = torch.stack(sides, dim=1).exp() * self.anchors[cells.anchor]
        xy = torch.stack(((x + cells.column) / columns, (y + cells.row) / rows), dim=1)
        return torch.cat((xy + self.head.centre_shift * wh, wh), dim=1)
