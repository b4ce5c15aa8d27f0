"""Boxes: conversions, areas, and the overlap measures IoU, GIoU, DIoU and CIoU on one shared core.

A box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, continuous coordinates (no +1), y downwards.
Half precision is computed in float32: the area of a 300-pixel box does not fit float16.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.structures import Size


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre and size; (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size to corners; (..., 4)."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """COCO's top-left corner and size to corners; (..., 4)."""
    low = boxes_xywh[..., :2]
    return torch.cat((low, low + boxes_xywh[..., 2:]), dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Corners to COCO's top-left corner and size; (..., 4)."""
    low = boxes[..., :2]
    return torch.cat((low, boxes[..., 2:] - low), dim=-1)


def clip_boxes(boxes: Tensor, size: Size) -> Tensor:
    """Boxes (..., 4) xyxy in pixels cut to an image of ``size`` (H, W)."""
    height, width = size
    limit = boxes.new_tensor((width, height, width, height))
    return torch.minimum(boxes.clamp(min=0), limit)


def area(boxes: Tensor) -> Tensor:
    """Area of each box (..., 4) xyxy."""
    boxes = _wide(boxes)
    extent = boxes[..., 2:] - boxes[..., :2]
    return extent[..., 0] * extent[..., 1]


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of all pairs: (N, 4) and (M, 4) xyxy give (N, M) in [0, 1]; boxes without area overlap nothing."""
    for boxes in (boxes1, boxes2):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"box_iou compares (N, 4) with (M, 4), got {_shape(boxes1)} and {_shape(boxes2)}")
    # Column by column: matrices (N, M) are several times as fast to compute as (N, M, 2) and its parts.
    left1, top1, right1, bottom1 = _wide(boxes1)[:, None].unbind(-1)
    left2, top2, right2, bottom2 = _wide(boxes2)[None].unbind(-1)
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    intersection = width * height
    return _ratio(intersection, area(boxes1)[:, None] + area(boxes2) - intersection)


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of matching pairs, in [0, 1].

    Args:
        boxes1, boxes2: (..., 4) xyxy, same shape and unit.
    """
    boxes1, boxes2 = _pairs("iou", boxes1, boxes2)
    return _ratio(*_overlap(boxes1, boxes2))


def giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU of matching pairs, in (-1, 1] (arXiv 1902.09630, algorithm 1).

    Args:
        boxes1, boxes2: (..., 4) xyxy, same shape and unit.
    """
    boxes1, boxes2 = _pairs("giou", boxes1, boxes2)
    intersection, union = _overlap(boxes1, boxes2)
    hull = area(_hull(boxes1, boxes2))
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def diou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Distance IoU of matching pairs, in (-1, 1] (arXiv 1911.08287, eq. 7).

    Args:
        boxes1, boxes2: (..., 4) xyxy, same shape and unit.
    """
    boxes1, boxes2 = _pairs("diou", boxes1, boxes2)
    return _ratio(*_overlap(boxes1, boxes2)) - _centre_distance(boxes1, boxes2)


def ciou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Complete IoU of matching pairs, in (-1.5, 1] (arXiv 1911.08287, eq. 10).

    Args:
        boxes1, boxes2: (..., 4) xyxy, same shape and unit. The trade-off weight alpha is a constant for the gradient.
    """
    boxes1, boxes2 = _pairs("ciou", boxes1, boxes2)
    overlap = _ratio(*_overlap(boxes1, boxes2))
    aspect = (4 / math.pi**2) * (_angle(boxes1) - _angle(boxes2)) ** 2
    with torch.no_grad():
        alpha = _ratio(aspect, 1 - overlap + aspect)
    return overlap - _centre_distance(boxes1, boxes2) - alpha * aspect


def _overlap(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    low = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    high = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    extent = (high - low).clamp(min=0)
    intersection = extent[..., 0] * extent[..., 1]
    return intersection, area(boxes1) + area(boxes2) - intersection


def _hull(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """The smallest box round both of a pair."""
    return torch.cat(
        (torch.minimum(boxes1[..., :2], boxes2[..., :2]), torch.maximum(boxes1[..., 2:], boxes2[..., 2:])), dim=-1
    )


def _centre_distance(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Squared distance of the centres relative to the squared diagonal of the hull."""
    hull = _hull(boxes1, boxes2)
    diagonal = (hull[..., 2:] - hull[..., :2]).square().sum(dim=-1)
    offset = (boxes1[..., :2] + boxes1[..., 2:] - boxes2[..., :2] - boxes2[..., 2:]) / 2
    return _ratio(offset.square().sum(dim=-1), diagonal)


def _angle(boxes: Tensor) -> Tensor:
    """arctan(width / height); atan2 has no division to fail on a flat box."""
    extent = boxes[..., 2:] - boxes[..., :2]
    # atan2(0, 0) has no gradient; the smallest number stands in for a height of zero
    return torch.atan2(extent[..., 0], extent[..., 1].clamp(min=torch.finfo(extent.dtype).tiny))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 with a finite gradient where both are 0."""
    return part / whole.clamp(min=torch.finfo(whole.dtype).eps ** 2)


def _pairs(name: str, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    if boxes1.shape != boxes2.shape or boxes1.ndim == 0 or boxes1.shape[-1] != 4:
        raise ValueError(
            f"{name} pairs boxes one to one, got {_shape(boxes1)} and {_shape(boxes2)}; use box_iou for all pairs"
        )
    return _wide(boxes1), _wide(boxes2)


def _wide(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _shape(boxes: Tensor) -> tuple[int, ...]:
    return tuple(boxes.shape)
