"""Which anchor of which cell learns which box: Darknet's assignment, without a loop over boxes or cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from utils import boxes as box_ops
from utils.structures import Size, Targets, TrackedTargets

_MEASURES = {"iou": box_ops.iou, "giou": box_ops.giou, "diou": box_ops.diou, "ciou": box_ops.ciou}
_PAIRS_AT_ONCE = 1 << 18  # prediction-truth pairs compared at a time: a megabyte for each temporary


class Truth(NamedTuple):
    """The boxes of a batch in Darknet's unit, fractions of the network input.

    Attributes:
        image_index: int64 (T,).
        labels: int64 (T,).
        boxes_cxcywhn: (T, 4).
        rows: int64 (B, M), for each image the rows of its boxes in order; -1 fills up.
        padded: (B, M, 4) xyxy, the boxes of ``rows``; those that fill up are empty.
        crowds: (B, C, 4) xyxy; what lies in one of these is neither object nor background.
    """

    image_index: Tensor
    labels: Tensor
    boxes_cxcywhn: Tensor
    rows: Tensor
    padded: Tensor
    crowds: Tensor

    def to(self, device: torch.device) -> Truth:
        """The same truth on ``device``."""
        return Truth(*(tensor.to(device, non_blocking=True) for tensor in self))


class Cells(NamedTuple):
    """Places in a head of shape (B, A, GH, GW): four int64 tensors of one length."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor

    def select(self, index: Tensor) -> Cells:
        """The places at ``index``, an index or a mask."""
        return Cells(*(tensor[index] for tensor in self))


class Learners(NamedTuple):
    """Predictions that learn a box, one entry for each box a prediction learns, in Darknet's order.

    Attributes:
        cells: where the P predictions are.
        truth: int64 (P,), the row of `Truth` each learns.
        by_overlap: bool (P,); True for those that learn because they lie on the box (``truth_thresh``), False for
            those whose anchor the box was assigned to.
        overlap: (P,), the IoU of those that learn by overlap, else 0.
    """

    cells: Cells
    truth: Tensor
    by_overlap: Tensor
    overlap: Tensor


class Slots(NamedTuple):
    """The U distinct predictions among P learners: several boxes can fall to one.

    Attributes:
        cells: where they are.
        index: int64 (P,), the slot of each learner.
        first, last: int64 (U,), the first and the last learner of each slot.
    """

    cells: Cells
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    first: Tensor
    last: Tensor


def learnable_truth(targets: Targets | TrackedTargets, batch: int, size: Size, num_classes: int) -> Truth:
    """Targets in the unit the assignment works in; crowds set apart, unusable boxes left out.

    Left out are boxes without extent and, as Darknet does, labels outside 0..``num_classes`` - 1.

    Args:
        targets: truth in input pixels.
        batch: images in the batch.
        size: (H, W) of the network input.
    """
    height, width = size
    boxes = targets.boxes / targets.boxes.new_tensor((width, height, width, height))
    extent = boxes[:, 2:] - boxes[:, :2]
    usable = (targets.labels >= 0) & (targets.labels < num_classes) & (extent > 0).all(dim=1) & ~targets.crowd
    image_index = targets.image_index[usable]
    rows = _rows_per_image(image_index, batch)
    crowd_rows = _rows_per_image(targets.image_index[targets.crowd], batch)
    return Truth(
        image_index=image_index,
        labels=targets.labels[usable],
        boxes_cxcywhn=box_ops.xyxy_to_cxcywh(boxes[usable]).float(),
        rows=rows,
        padded=_take(boxes[usable].float(), rows),
        crowds=_take(boxes[targets.crowd].float(), crowd_rows),
    )


def assign(truth: Truth, anchors: Tensor, mask: tuple[int, ...], grid: Size, thresh: float, kind: str) -> Learners:
    """The predictions of one head that learn by their anchor; see `assign_anchors` and `cells_of`.

    Args:
        anchors: (num, 2) of all heads, relative to the network input.
        grid: (GH, GW).
        thresh, kind: the section's iou_thresh and iou_thresh_kind.
    """
    index, anchor = assign_anchors(truth.boxes_cxcywhn[:, 2:], anchors, mask, thresh, kind)
    row, column = cells_of(truth.boxes_cxcywhn[index, :2], grid)
    return Learners(
        cells=Cells(truth.image_index[index], anchor, row, column),
        truth=index,
        by_overlap=torch.zeros_like(index, dtype=torch.bool),
        overlap=torch.zeros_like(index, dtype=torch.float32),
    )


def assign_anchors(
    truth_wh: Tensor, anchors: Tensor, mask: tuple[int, ...], iou_thresh: float, iou_thresh_kind: str
) -> tuple[Tensor, Tensor]:
    """Anchors of one head that learn each truth, by shape alone (second pass of Darknet's yolo layer).

    The best of ALL the network's anchors learns the box, if it belongs to this head; with ``iou_thresh`` < 1
    every other anchor of the head whose shape overlaps more than that learns it too.

    Args:
        truth_wh: (T, 2).
        anchors: (num, 2) of all heads, same unit.
        mask: which of them belong to this head.
        iou_thresh_kind: iou, giou, diou or ciou.

    Returns:
        Truth index and position in ``mask``, both (P,), ordered by truth.
    """
    shape = (truth_wh.shape[0], anchors.shape[0], 2)
    truth_boxes = _centred(truth_wh[:, None].expand(shape))
    anchor_boxes = _centred(anchors[None].expand(shape))
    best = box_ops.iou(truth_boxes, anchor_boxes).argmax(dim=1)  # the first of equals, as in Darknet
    own = torch.tensor(mask, device=truth_wh.device)
    learns = own == best[:, None]
    if iou_thresh < 1:
        learns |= _MEASURES[iou_thresh_kind](truth_boxes, anchor_boxes)[:, own] > iou_thresh
    truth, anchor = learns.nonzero(as_tuple=True)
    return truth, anchor


def cells_of(centres: Tensor, grid: Size) -> tuple[Tensor, Tensor]:
    """Row and column, both (T,), of the cell each centre (T, 2), relative to the input, falls in.

    A centre on or beyond the edge belongs to the outermost cell, where Darknet would leave its array.
    """
    rows, columns = grid
    column = (centres[:, 0] * columns).long().clamp(0, columns - 1)
    row = (centres[:, 1] * rows).long().clamp(0, rows - 1)
    return row, column


def join(first: Learners, second: Learners) -> Learners:
    """The learners of two passes, one after the other."""
    cells = Cells(*(torch.cat(pair) for pair in zip(first.cells, second.cells, strict=True)))
    return Learners(cells, *(torch.cat(pair) for pair in zip(first[1:], second[1:], strict=True)))


def distinct(cells: Cells, shape: tuple[int, ...]) -> Slots:
    """Find the learners that share a prediction.

    Args:
        shape: (B, A, GH, GW) of the head.
    """
    place = places(cells, shape)
    different, index = place.unique(return_inverse=True)
    order = torch.arange(len(place), device=place.device)
    first = torch.full_like(different, len(place)).scatter_reduce(0, index, order, "amin")
    last = torch.full_like(different, -1).scatter_reduce(0, index, order, "amax")
    return Slots(cells.select(first), index, first, last)


def places(cells: Cells, shape: tuple[int, ...]) -> Tensor:
    """Where ``cells`` lie in a flattened map of ``shape`` (B, A, GH, GW): int64 (P,)."""
    _, anchors, rows, columns = shape
    return ((cells.image * anchors + cells.anchor) * rows + cells.row) * columns + cells.column


def best_overlap(image: Tensor, boxes: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """For each prediction the largest IoU with a box of its own image, and which box that is.

    Args:
        image: (N,) image of each prediction.
        boxes: (N, 4) xyxy relative to the input.

    Returns:
        IoU (N,), 0 where the image has no box, and the row of `Truth` (N,).
    """
    overlap, position = _best(_iou_with_each, image, boxes, truth.padded)
    rows = truth.rows[image, position] if truth.rows.shape[1] else position
    return overlap, rows


def crowd_coverage(image: Tensor, boxes: Tensor, truth: Truth) -> Tensor:
    """Largest part, in [0, 1], of each prediction's own area inside one crowd box of its image: (N,).

    Args:
        image: (N,) image of each prediction.
        boxes: (N, 4) xyxy relative to the input.
    """
    return _best(_covered_by_each, image, boxes, truth.crowds)[0]


def _best(
    measure: Callable[[Tensor, Tensor], Tensor], image: Tensor, boxes: Tensor, others: Tensor
) -> tuple[Tensor, Tensor]:
    """Largest measure between each box (N, 4) and the others (B, M, 4) of its image, and where among the M.

    The predictions are taken in parts, so that memory does not grow with predictions times boxes.
    """
    most = others.shape[1]
    if most == 0 or len(boxes) == 0:
        return boxes.new_zeros(len(boxes)), image.new_zeros(len(boxes))
    step = max(1, _PAIRS_AT_ONCE // most)
    chunks = zip(image.split(step), boxes.split(step), strict=True)
    parts = [measure(part, others[index]).max(dim=1) for index, part in chunks]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _iou_with_each(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of each box (N, 4) with its own M others (N, M, 4): (N, M)."""
    return box_ops.iou(boxes[:, None].expand_as(others), others)


def _covered_by_each(boxes: Tensor, others: Tensor) -> Tensor:
    """Part of each box (N, 4) inside each of its own M others (N, M, 4): (N, M)."""
    low = torch.maximum(boxes[:, None, :2], others[..., :2])
    high = torch.minimum(boxes[:, None, 2:], others[..., 2:])
    inside = (high - low).clamp(min=0).prod(dim=-1)
    return inside / box_ops.area(boxes)[:, None].clamp(min=torch.finfo(boxes.dtype).tiny)


def _rows_per_image(image_index: Tensor, batch: int) -> Tensor:
    """(B, M): the positions in ``image_index`` that hold each image, in order, filled up with -1."""
    counts = torch.bincount(image_index, minlength=batch)
    order = image_index.argsort(stable=True)
    images = image_index[order]
    position = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[images]
    rows = order.new_full((batch, int(counts.max())), -1)
    rows[images, position] = order
    return rows


def _take(boxes: Tensor, rows: Tensor) -> Tensor:
    """Boxes (T, 4) laid out as ``rows`` (B, M) say: (B, M, 4); -1 is an empty box."""
    return torch.cat((boxes, boxes.new_zeros(1, 4)))[rows]


def _centred(wh: Tensor) -> Tensor:
    """Boxes of the given width and height round the origin."""
    return torch.cat((-wh / 2, wh / 2), dim=-1)
