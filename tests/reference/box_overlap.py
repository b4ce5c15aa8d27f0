"""Overlap of two boxes in plain Python numbers: slow, obvious, the measure for utils/boxes.py."""

from __future__ import annotations

import math

Box = tuple[float, float, float, float]  # x1, y1, x2, y2


def iou(a: Box, b: Box) -> float:
    intersection, union = _overlap(a, b)
    return intersection / union if union > 0 else 0.0


def giou(a: Box, b: Box) -> float:
    _, union = _overlap(a, b)
    x1, y1, x2, y2 = _hull(a, b)
    hull = (x2 - x1) * (y2 - y1)
    return iou(a, b) - ((hull - union) / hull if hull > 0 else 0.0)


def diou(a: Box, b: Box) -> float:
    x1, y1, x2, y2 = _hull(a, b)
    diagonal = (x2 - x1) ** 2 + (y2 - y1) ** 2
    dx, dy = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return iou(a, b) - ((dx**2 + dy**2) / diagonal if diagonal > 0 else 0.0)


def ciou(a: Box, b: Box) -> float:
    angle_a, angle_b = (math.atan2(box[2] - box[0], box[3] - box[1]) for box in (a, b))
    v = 4 / math.pi**2 * (angle_a - angle_b) ** 2
    alpha = v / (1 - iou(a, b) + v) if v > 0 else 0.0
    return diou(a, b) - alpha * v


def _overlap(a: Box, b: Box) -> tuple[float, float]:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height, areas - width * height


def _hull(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
