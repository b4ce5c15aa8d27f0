"""Greedy non-maximum suppression per class, with Darknet's three measures of overlap."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from utils.boxes import box_iou

NmsKind = Literal["default", "greedynms", "diounms", "cornersnms"]

GREEDY_EXPONENT = 0.6  # Darknet's greedynms ignores beta_nms
BLOCK = 512  # boxes compared at a time: their overlaps fit a core's cache, and at most BLOCK x kept are in memory
FIRST_LOOK = 4  # times the boxes wanted are looked at first
ONE_PASS = 512  # up to so many boxes all classes are done at once: fewer calls beat fewer pairs


def nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    threshold: float,
    *,
    kind: NmsKind = "default",
    beta: float = 0.6,
    limit: int | None = None,
) -> Tensor:
    """Keep of every class the boxes that no better kept box of that class overlaps by more than ``threshold``.

    Args:
        boxes: float (N, 4) xyxy.
        scores: float (N,).
        labels: int64 (N,); boxes of different classes never suppress each other.
        threshold: largest overlap two kept boxes may have, in [0, 1].
        kind: the overlap: ``default`` and ``cornersnms`` IoU; ``greedynms`` IoU - (d^2/c^2)^0.6;
            ``diounms`` IoU - (d^2/c^2)^beta, where d is the distance of the centres and c the diagonal of the hull.
        beta: the exponent of ``diounms`` (the cfg's ``beta_nms``).
        limit: only so many of the best survivors are wanted. They depend on no box behind them, so that of the 200,000
            candidates an untrained network has in an image few need be compared.

    Returns:
        int64 (M,) indices into ``boxes`` by falling score; equal scores keep their order.
    """
    if not (len(boxes) == len(scores) == len(labels)):
        raise ValueError(
            f"nms: got {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels (want as many of each)"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"nms: threshold={threshold}: must lie in 0..1")
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order].float(), labels[order]
    exponent = _exponent(kind, beta)
    looked = len(order) if limit is None else min(len(order), FIRST_LOOK * limit)
    while True:
        kept = _survivors(boxes[:looked], labels[:looked], threshold, exponent)
        if looked == len(order) or limit is None or len(kept) >= limit:
            return order[kept[:limit]]
        looked = min(len(order), 4 * looked)


def _survivors(boxes: Tensor, labels: Tensor, threshold: float, exponent: float | None) -> Tensor:
    """Ascending indices of the boxes that survive; the input is sorted by falling score."""
    if len(boxes) <= ONE_PASS or boxes.is_cuda:
        return _keep(boxes, labels, threshold, exponent)
    kept = [group[_keep(boxes[group], None, threshold, exponent)] for group in _groups(labels)]
    return torch.cat(kept).sort().values


def _exponent(kind: str, beta: float) -> float | None:
    """The exponent of the distance term, None for plain IoU."""
    exponents = {"default": None, "cornersnms": None, "greedynms": GREEDY_EXPONENT, "diounms": beta}
    if kind not in exponents:
        raise ValueError(f"nms: kind={kind!r}: must be one of {', '.join(exponents)}")
    return exponents[kind]


def _groups(labels: Tensor) -> tuple[Tensor, ...]:
    """Indices of each class, in their order."""
    by_label = labels.argsort(stable=True)
    counts = torch.unique_consecutive(labels[by_label], return_counts=True)[1]
    return by_label.split(counts.tolist())


def _keep(boxes: Tensor, labels: Tensor | None, threshold: float, exponent: float | None) -> Tensor:
    """``_survivors`` of one class, or, with ``labels``, of all at once."""
    if labels is None and exponent is None:
        from torchvision.ops import nms as plain_nms  # late: it doubles the time in which a script starts

        return plain_nms(boxes, -torch.arange(len(boxes), dtype=boxes.dtype), threshold)
    kept = boxes.new_zeros(0, dtype=torch.int64)
    for start in range(0, len(boxes), BLOCK):
        block = torch.arange(start, min(start + BLOCK, len(boxes)), device=boxes.device)
        earlier = _overlaps(boxes, labels, kept, block, threshold, exponent)
        block = block[~earlier.any(0)]
        within = _overlaps(boxes, labels, block, block, threshold, exponent).triu_(1)
        kept = torch.cat((kept, block[_greedy(within)]))
    return kept


def _greedy(suppresses: Tensor) -> Tensor:
    """Survivors of greedy suppression, bool (N,).

    ``suppresses[i, j]`` (only i < j) says that box i, if kept, removes box j. The greedy answer is the one
    fixed point of "kept unless a kept box removes me"; the first n boxes are right after n rounds and real
    detections settle after a few, so this beats a loop over boxes.
    """
    weights = suppresses.float()  # a product of matrices counts who removes whom, faster than logic does
    keep = weights.new_ones(len(weights))
    while True:
        following = (keep @ weights == 0).float()
        if torch.equal(following, keep):
            return keep.bool()
        keep = following


def _overlaps(
    boxes: Tensor, labels: Tensor | None, first: Tensor, second: Tensor, threshold: float, exponent: float | None
) -> Tensor:
    """Which pairs of the same class overlap by more than ``threshold``: bool (len(first), len(second))."""
    overlap = box_iou(boxes[first], boxes[second])
    over = overlap > threshold  # False for NaN, what two empty boxes give
    if labels is not None:
        over &= labels[first][:, None] == labels[second]
    if exponent is not None:  # the distance only lowers the overlap: look at the pairs that are over without it
        i, j = over.nonzero(as_tuple=True)
        over[i, j] = overlap[i, j] - _distance(boxes[first[i]], boxes[second[j]]) ** exponent > threshold
    return over


def _distance(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the hull, (N,) in [0, 1)."""
    between = (boxes1[:, :2] + boxes1[:, 2:] - boxes2[:, :2] - boxes2[:, 2:]) / 2
    hull = torch.maximum(boxes1[:, 2:], boxes2[:, 2:]) - torch.minimum(boxes1[:, :2], boxes2[:, :2])
    return between.square().sum(1) / hull.square().sum(1)
