"""The deltas of one [yolo] head over a mini-batch: Darknet's `forward_yolo_layer` without its loops."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.heads.yolo import YoloHead
from models.losses.box_delta import iou_delta, mse_delta
from models.losses.class_delta import class_delta, class_multipliers
from models.targets.darknet import Cells, Learners, Slots, Truth, assign, best_overlap, crowd_coverage, distinct, join
from utils import boxes as box_ops
from utils.structures import Size

_CONFIDENT_CLASS = 0.25  # only a prediction with a class above this is excused for lying on an object


class Deltas(NamedTuple):
    """Ascent directions for the outputs of a head, and what the cost is made of.

    Attributes:
        objectness: (B, A, GH, GW).
        cells: the U distinct predictions that learn a box.
        rows: (U, E), the deltas of all outputs at ``cells``; elsewhere all but the objectness are 0.
        iou, giou: (P,) of the predictions that learn by their anchor, once for each box.
    """

    objectness: Tensor
    cells: Cells
    rows: Tensor
    iou: Tensor
    giou: Tensor


class HeadPass:
    """One head, its raw map and the truth; `deltas` is what it is for.

    Args:
        raw: (B, A*(5+K), GH, GW), without gradient.
        size: (H, W) of the network input.
    """

    def __init__(self, head: YoloHead, raw: Tensor, truth: Truth, size: Size) -> None:
        self.head, self.section, self.truth = head, head.section, truth
        self.grid = head.grid(raw)  # (B, A, 5+K, GH, GW)
        self.grid_size: Size = (raw.shape[2], raw.shape[3])
        input_wh = head.anchors.new_tensor((size[1], size[0]))
        self.anchors, self.all_anchors = head.anchors / input_wh, head.all_anchors / input_wh
        self.multipliers = class_multipliers(self.section, raw.device)

    def deltas(self) -> Deltas:
        """Darknet's delta of this head."""
        objectness = self.head.activate_objectness(self.grid[:, :, 4])
        delta = -self.section.obj_normalizer * objectness  # nothing is an object until a box says so
        learners = join(self._compare(objectness, delta), self._assigned())
        slots = distinct(learners.cells, objectness.shape)
        outputs = self.head.activate_entries(self._entries(slots.cells, slice(None)))  # (U, 5+K)
        labels = self.truth.labels[learners.truth]
        at_slots = self._objectness_delta(delta[slots.cells], outputs[:, 4], self.multipliers[labels], learners, slots)
        delta[slots.cells] = at_slots
        classes = class_delta(self.section, outputs[:, 5:], labels, learners, slots, self.multipliers)
        predicted = self._boxes_cxcywhn(outputs[:, :4], slots.cells)[slots.index]  # (P, 4)
        boxes = self._box_delta(outputs[:, :4][slots.index], predicted, labels, learners)
        box = torch.zeros_like(outputs[:, :4]).index_put((slots.index,), boxes, accumulate=True)
        if self.section.iou_thresh < 1:  # a prediction that was given several classes divides its box delta by them
            raised = (classes > 0).sum(dim=1, keepdim=True).clamp(min=1)
            box = torch.where(at_slots[:, None] != 0, box / raised, box)
        rows = torch.cat((box, at_slots[:, None], classes), dim=1)
        return Deltas(delta, slots.cells, rows, *self._agreement(predicted, learners))

    def _compare(self, objectness: Tensor, delta: Tensor) -> Learners:
        """First pass, over predictions: excuse in ``delta``, in place, those on a box; some even learn it."""
        section = self.section
        confident = self._confident()
        # with truth_thresh at 1 or more nothing learns by overlap, and only what may be excused need be compared
        compared = confident if section.truth_thresh >= 1 else torch.ones_like(confident)
        cells = Cells(*compared.nonzero(as_tuple=True))
        overlap, nearest = best_overlap(cells.image, self._boxes_at(cells), self.truth)
        on_box = confident[cells] & (overlap > section.ignore_thresh)
        self._excuse(objectness, delta, cells.select(on_box), overlap[on_box])
        if self.truth.crowds.shape[1]:
            self._excuse_crowds(delta)
        learns = overlap > section.truth_thresh
        return Learners(cells.select(learns), nearest[learns], learns[learns], overlap[learns])

    def _excuse(self, objectness: Tensor, delta: Tensor, cells: Cells, overlap: Tensor) -> None:
        """Take predictions on a box out of the background, in place; ``objectness_smooth`` aims at their IoU."""
        if self.section.objectness_smooth:
            aim = self.section.obj_normalizer * (overlap - objectness[cells])
            delta[cells] = torch.maximum(delta[cells], aim)
        else:
            delta[cells] = 0

    def _excuse_crowds(self, delta: Tensor) -> None:
        """Take predictions inside a crowd out of the background, in place; Darknet knows no crowds."""
        crowded = (self.truth.crowds != 0).flatten(1).any(dim=1)  # (B,)
        cells = Cells(*crowded[:, None, None, None].expand_as(delta).nonzero(as_tuple=True))
        inside = crowd_coverage(cells.image, self._boxes_at(cells), self.truth) > self.section.ignore_thresh
        delta[cells.select(inside)] = 0

    def _confident(self) -> Tensor:
        """bool (B, A, GH, GW): some class probability exceeds the bar. Compared before the sigmoid, to save one."""
        classes = self.grid[:, :, self.head.box_entries + 1 :]
        return self.head.activate_objectness(classes.amax(dim=2)) > _CONFIDENT_CLASS

    def _assigned(self) -> Learners:
        """Second pass, over truths."""
        section = self.section
        return assign(
            self.truth, self.all_anchors, section.mask, self.grid_size, section.iou_thresh, section.iou_thresh_kind
        )

    def _objectness_delta(
        self, delta: Tensor, probs: Tensor, multipliers: Tensor, learners: Learners, slots: Slots
    ) -> Tensor:
        """Objectness delta (U,) at the slots, given what the first pass left there.

        The last box decides. With ``objectness_smooth`` a box writes only where the delta is still exactly 0, which
        is next to never: Darknet then learns objectness from the overlap alone.

        Args:
            delta, probs: (U,).
            multipliers: (P,) weight of each learner's class.
        """
        pull = self.section.obj_normalizer * (1 - probs)
        if self.section.objectness_smooth:
            by_overlap = learners.by_overlap[slots.first]
            aim = learners.overlap[slots.first].square()
            delta = torch.where(by_overlap, self.section.obj_normalizer * (aim - probs), delta)
            return torch.where(delta == 0, multipliers[slots.first] * pull, delta)
        return torch.where(learners.by_overlap[slots.last], pull, multipliers[slots.last] * pull)

    def _box_delta(self, outputs: Tensor, predicted: Tensor, labels: Tensor, learners: Learners) -> Tensor:
        """Delta (P, 4) that each learner adds to the four box outputs of its prediction.

        Args:
            outputs: (P, 4) what the layer puts out for x, y, w, h.
            predicted: (P, 4) cxcywh relative to the input.
        """
        section = self.section
        truth = self.truth.boxes_cxcywhn[learners.truth]
        weight = section.iou_normalizer * self.multipliers[labels][:, None]
        if section.iou_loss == "mse":
            return weight * mse_delta(outputs, self._box_targets(truth, learners.cells), truth[:, 2:])
        delta = weight * iou_delta(section.iou_loss, predicted, truth)
        if not section.new_coords:  # the slope of e^t
            delta = torch.cat((delta[:, :2], delta[:, 2:] * outputs[:, 2:].exp()), dim=1)
        return delta.nan_to_num(0, 0, 0).clamp(-section.max_delta, section.max_delta)

    def _box_targets(self, truth: Tensor, cells: Cells) -> Tensor:
        """What the layer should put out (P, 4) for a box (P, 4) cxcywhn."""
        rows, columns = self.grid_size
        x, y = truth[:, 0] * columns - cells.column, truth[:, 1] * rows - cells.row
        wh = truth[:, 2:] / self.anchors[cells.anchor]
        wh = (wh / 4).sqrt() if self.section.new_coords else wh.log()
        return torch.cat((x[:, None], y[:, None], wh), dim=1)

    def _agreement(self, predicted: Tensor, learners: Learners) -> tuple[Tensor, Tensor]:
        """IoU and GIoU of the assigned predictions with their boxes."""
        assigned = ~learners.by_overlap
        truth = box_ops.cxcywh_to_xyxy(self.truth.boxes_cxcywhn[learners.truth[assigned]])
        boxes = box_ops.cxcywh_to_xyxy(predicted[assigned])
        return box_ops.iou(boxes, truth), box_ops.giou(boxes, truth)

    def _entries(self, cells: Cells, which: slice) -> Tensor:
        """Raw entries (N, E) at ``cells``."""
        return self.grid[cells.image, cells.anchor, which, cells.row, cells.column]

    def _boxes_at(self, cells: Cells) -> Tensor:
        """Predicted boxes (N, 4) xyxy relative to the input."""
        outputs = self.head.activate_entries(self._entries(cells, slice(0, self.head.box_entries)))
        return box_ops.cxcywh_to_xyxy(self._boxes_cxcywhn(outputs, cells))

    def _boxes_cxcywhn(self, outputs: Tensor, cells: Cells) -> Tensor:
        """Boxes (N, 4) that the box outputs (N, 4) of the layer stand for."""
        rows, columns = self.grid_size
        x, y = (outputs[:, 0] + cells.column) / columns, (outputs[:, 1] + cells.row) / rows
        wh = outputs[:, 2:4]
        wh = (4 * wh.square() if self.section.new_coords else wh.exp()) * self.anchors[cells.anchor]
        return torch.cat((x[:, None], y[:, None], wh), dim=1)
