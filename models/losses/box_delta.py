"""What Darknet's yolo layer adds to the four box outputs of a positive: `delta_yolo_box` and `dx_box_iou`.

None of these is the exact derivative of an IoU loss. Darknet doubles the width and height terms, keeps the product
of two negative side lengths as an intersection, flips the sign of one distance term and drops CIoU's 1/(w² + h²).
Trained weights and cfg normalisers rest on these values, so they are reproduced and not repaired.
All boxes are (cx, cy, w, h) relative to the network input; a delta is an ascent direction, minus the gradient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from utils.boxes import cxcywh_to_xyxy


class _Edges(NamedTuple):
    """One number for each side of a box."""

    left: Tensor
    top: Tensor
    right: Tensor
    bottom: Tensor


def iou_delta(kind: str, predicted: Tensor, truth: Tensor) -> Tensor:
    """Darknet's direction of rising IoU, GIoU, DIoU or CIoU, for (cx, cy, w, h).

    Args:
        kind: iou, giou, diou or ciou.
        predicted, truth: (P, 4) cxcywh relative to the input.

    Returns:
        (P, 4), before any normaliser and before the factor e^t of width and height.
    """
    size = predicted[:, 2:]
    predicted = torch.cat((predicted[:, :2], torch.where(size == 0, torch.ones_like(size), size)), dim=1)
    edges, truth_edges = (_Edges(*cxcywh_to_xyxy(boxes).unbind(1)) for boxes in (predicted, truth))
    inner_w = torch.minimum(edges.right, truth_edges.right) - torch.maximum(edges.left, truth_edges.left)
    inner_h = torch.minimum(edges.bottom, truth_edges.bottom) - torch.maximum(edges.top, truth_edges.top)
    overlap = inner_w * inner_h  # positive also where both are negative, as in Darknet
    union = predicted[:, 2] * predicted[:, 3] + truth[:, 2] * truth[:, 3] - overlap
    inner = _inner_growth(edges, truth_edges, inner_w, inner_h)
    outer = _area_growth(predicted, inner)
    delta = _to_centre(_quotient_growth(overlap, union, inner, outer))
    apart = ((inner_w <= 0) | (inner_h <= 0))[:, None]
    if kind == "iou":
        return delta
    if kind == "giou":
        extra = _giou_term(edges, truth_edges, union, outer)
    else:
        extra = _distance_term(predicted, truth, edges, truth_edges)
        if kind == "ciou":
            extra = extra + _aspect_term(predicted, truth, overlap / union)
    return torch.where(apart, extra, delta + extra)


def mse_delta(outputs: Tensor, targets: Tensor, truth_wh: Tensor) -> Tensor:
    """Difference of the four outputs to their targets, heavier for small boxes: times 2 - w * h of the truth."""
    return (2 - truth_wh.prod(dim=1, keepdim=True)) * (targets - outputs)


def _inner_growth(edges: _Edges, truth: _Edges, inner_w: Tensor, inner_h: Tensor) -> _Edges:
    """Change of the intersection as each edge of the prediction moves right or down."""
    return _Edges(
        left=torch.where(edges.left > truth.left, -inner_h, 0.0),
        top=torch.where(edges.top > truth.top, -inner_w, 0.0),
        right=torch.where(edges.right < truth.right, inner_h, 0.0),
        bottom=torch.where(edges.bottom < truth.bottom, inner_w, 0.0),
    )


def _area_growth(predicted: Tensor, inner: _Edges) -> _Edges:
    """Change of the union: that of the predicted area less that of the intersection."""
    width, height = predicted[:, 2], predicted[:, 3]
    return _Edges(-height - inner.left, -width - inner.top, height - inner.right, width - inner.bottom)


def _quotient_growth(part: Tensor, whole: Tensor, part_growth: _Edges, whole_growth: _Edges) -> _Edges:
    """Quotient rule for part / whole at each edge; 0 where the whole is not positive."""
    return _Edges(
        *(
            torch.where(whole > 0, (whole * d_part - part * d_whole) / whole.square(), 0.0)
            for d_part, d_whole in zip(part_growth, whole_growth, strict=True)
        )
    )


def _to_centre(growth: _Edges) -> Tensor:
    """Edge terms as terms of (cx, cy, w, h); width and height are not halved, as in Darknet."""
    return torch.stack(
        (
            growth.left + growth.right,
            growth.top + growth.bottom,
            growth.right - growth.left,
            growth.bottom - growth.top,
        ),
        dim=1,
    )


def _hull(edges: _Edges, truth: _Edges) -> tuple[Tensor, Tensor]:
    """Width and height of the box round both."""
    width = torch.maximum(edges.right, truth.right) - torch.minimum(edges.left, truth.left)
    height = torch.maximum(edges.bottom, truth.bottom) - torch.minimum(edges.top, truth.top)
    return width, height


def _giou_term(edges: _Edges, truth: _Edges, union: Tensor, union_growth: _Edges) -> Tensor:
    """GIoU's second term, union / hull."""
    width, height = _hull(edges, truth)
    hull_growth = _Edges(
        left=torch.where(edges.left < truth.left, -height, 0.0),
        top=torch.where(edges.top < truth.top, -width, 0.0),
        right=torch.where(edges.right > truth.right, height, 0.0),
        bottom=torch.where(edges.bottom > truth.bottom, width, 0.0),
    )
    return _to_centre(_quotient_growth(union, width * height, union_growth, hull_growth))


def _distance_term(predicted: Tensor, truth: Tensor, edges: _Edges, truth_edges: _Edges) -> Tensor:
    """DIoU's term, squared centre distance over squared hull diagonal, with Darknet's signs."""
    width, height = _hull(edges, truth_edges)
    diagonal = width.square() + height.square()
    offset = truth[:, :2] - predicted[:, :2]
    distance = offset.square().sum(dim=1)
    left, top = edges.left < truth_edges.left, edges.top < truth_edges.top
    right, bottom = edges.right > truth_edges.right, edges.bottom > truth_edges.bottom
    hull_growth = torch.stack(  # of the squared diagonal
        (
            2 * width * (right.float() - left.float()),
            2 * height * (bottom.float() - top.float()),
            width * (right.float() + left.float()),
            height * (bottom.float() + top.float()),
        ),
        dim=1,
    )
    pull = 2 * offset * diagonal[:, None] - hull_growth[:, :2] * distance[:, None]
    stretch = hull_growth[:, 2:] * distance[:, None]
    return torch.cat((pull, stretch), dim=1) / diagonal.square()[:, None]


def _aspect_term(predicted: Tensor, truth: Tensor, iou: Tensor) -> Tensor:
    """CIoU's term for the aspect ratio, without the factor 1 / (w² + h²)."""
    angle = torch.atan(truth[:, 2] / truth[:, 3]) - torch.atan(predicted[:, 2] / predicted[:, 3])
    aspect = 4 / math.pi**2 * angle.square()
    alpha = aspect / (1 - iou + aspect + 1e-6)
    slope = alpha * 8 / math.pi**2 * angle
    nothing = torch.zeros_like(slope)
    return torch.stack((nothing, nothing, slope * predicted[:, 3], -slope * predicted[:, 2]), dim=1)
