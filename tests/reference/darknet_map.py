"""Darknet's mAP and recall as loops over boxes, slow and obvious; boxes are (left, top, right, bottom)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A truth box, or with a score a detection."""

    image: int
    label: int
    box: tuple[float, float, float, float]
    score: float = 1.0


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both
    return both / union


def match(detection: Box, truth: Sequence[Box], threshold: float) -> tuple[int | None, float]:
    """The truth a detection belongs to, and their IoU."""
    best, best_iou = None, threshold
    for index, one in enumerate(truth):
        if one.image == detection.image and one.label == detection.label:
            iou = overlap(detection.box, one.box)
            if iou > best_iou:
                best, best_iou = index, iou
    return best, best_iou


def mean_average_precision(
    truth: Sequence[Box], detections: Sequence[Box], classes: int, points: int, iou_threshold: float, conf: float
) -> dict:
    """``map``, and for the detections above ``conf`` tp, fp, fn and the mean IoU."""
    aps, tp_sure, fp_sure, iou_sum = [], 0, 0, 0.0
    for label in range(classes):
        wanted = sum(one.label == label for one in truth)
        ranked = sorted((one for one in detections if one.label == label), key=lambda one: -one.score)
        taken: set[int] = set()
        curve = []  # (recall, precision) after each detection
        for rank, one in enumerate(ranked, start=1):
            index, iou = match(one, truth, iou_threshold)
            right = index is not None and index not in taken
            if right:
                taken.add(index)
            if one.score > conf:
                tp_sure += right
                fp_sure += not right
                iou_sum += iou if right else 0.0
            curve.append((len(taken) / wanted if wanted else 0.0, len(taken) / rank))
        aps.append(_area(curve) if points == 0 else _mean_at(curve, points))
    return {
        "map": sum(aps) / classes,
        "tp": tp_sure,
        "fp": fp_sure,
        "fn": len(truth) - tp_sure,
        "average_iou": iou_sum / (tp_sure + fp_sure) if tp_sure + fp_sure else 0.0,
    }


def _area(curve: Sequence[tuple[float, float]]) -> float:
    area, before = 0.0, 0.0
    for index, (recall, _) in enumerate(curve):
        area += (recall - before) * max(precision for _, precision in curve[index:])
        before = recall
    return area


def _mean_at(curve: Sequence[tuple[float, float]], points: int) -> float:
    levels = [point / (points - 1) for point in range(points)]
    return sum(max((p for recall, p in curve if recall >= level), default=0.0) for level in levels) / points


def proposal_recall(truth: Sequence[Box], proposals: Sequence[Box], iou_threshold: float) -> tuple[int, float]:
    """How many truth boxes are found, and the sum of their best IoU."""
    best = [max((overlap(p.box, one.box) for p in proposals if p.image == one.image), default=0.0) for one in truth]
    return sum(iou > iou_threshold for iou in best), sum(best)
