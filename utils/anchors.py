"""Anchors that fit a data set: clusters of box sizes under the distance 1 - IoU (arXiv 1612.08242, section 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from utils.errors import DatasetError
from utils.structures import ImageRecord, Size

RECALL_IOU = 0.5
_MOST_BOXES = 50_000  # clustered; more of them move no anchor by a pixel
_MOST_ROUNDS = 200


class AnchorFit(NamedTuple):
    """How well anchors fit boxes, each box with its best anchor, both centred on the same point.

    Attributes:
        average_iou: mean IoU.
        recall: share of the boxes whose IoU exceeds 0.5.
    """

    average_iou: float
    recall: float


def box_sizes(records: Sequence[ImageRecord], size: Size, *, letterbox: bool = False) -> np.ndarray:
    """Width and height of every single object as the network sees it: float64 (N, 2), input pixels.

    Args:
        size: (H, W) of the network input.
        letterbox: images keep their aspect ratio; else they are stretched.

    Raises:
        DatasetError: there is no box with an area.
    """
    sizes = [np.zeros((0, 2))]
    for record in records:
        boxes = record.boxes[~record.crowd].astype(np.float64)
        scale = np.array(size[::-1]) / record.size[::-1]
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * (scale.min() if letterbox else scale))
    wh = np.concatenate(sizes)
    wh = wh[(wh > 0).all(axis=1)]
    if not len(wh):
        raise DatasetError(f"{len(records)} images without a box; anchors are fitted to boxes, annotate some")
    return wh


def fit_anchors(wh: np.ndarray, count: int, rng: np.random.Generator, *, restarts: int = 10) -> np.ndarray:
    """Find ``count`` anchors by k-means with the distance 1 - IoU; the best of several starts.

    Args:
        wh: (N, 2) box sizes.

    Returns:
        float64 (count, 2), by rising area.

    Raises:
        DatasetError: there are fewer different sizes than anchors.
    """
    if len(wh) > _MOST_BOXES:
        wh = rng.choice(wh, _MOST_BOXES, replace=False)
    different = len(np.unique(wh, axis=0))
    if different < count:
        raise DatasetError(f"{different} different box sizes for {count} anchors; take fewer anchors or more images")
    fits = (_k_means(wh, _scattered(wh, count, rng)) for _ in range(restarts))
    best = max(fits, key=lambda anchors: anchor_fit(wh, anchors).average_iou)
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def anchor_fit(wh: np.ndarray, anchors: np.ndarray) -> AnchorFit:
    """Measure (A, 2) ``anchors`` by the boxes (N, 2) they are for."""
    iou = wh_iou(wh, anchors).max(axis=1)
    return AnchorFit(float(iou.mean()), float((iou > RECALL_IOU).mean()))


def wh_iou(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of sizes about one centre: (N, 2) and (A, 2) give (N, A)."""
    both = np.minimum(wh[:, None, 0], anchors[:, 0]) * np.minimum(wh[:, None, 1], anchors[:, 1])
    return both / (wh.prod(axis=1)[:, None] + anchors.prod(axis=1) - both)


def anchor_lines(wh: np.ndarray, fitted: np.ndarray, before: np.ndarray | None = None) -> Iterator[str]:
    """For people: how both fit, and the new anchors as a cfg spells them."""
    for name, anchors in (("before", before), ("fitted", fitted)):
        if anchors is not None:
            fit = anchor_fit(wh, anchors)
            yield (
                f"{name}: {len(anchors)} anchors, average IoU {fit.average_iou:.4f}, "
                f"recall at IoU {RECALL_IOU} {fit.recall:.4f}"
            )
    yield "anchors = " + ", ".join(f"{width:.0f},{height:.0f}" for width, height in fitted)


def _scattered(wh: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes to start from, far from each other (k-means++)."""
    chosen = [wh[rng.integers(len(wh))]]
    while len(chosen) < count:
        distance = 1 - wh_iou(wh, np.array(chosen)).max(axis=1)
        weight = np.maximum(distance, 0) ** 2
        chosen.append(wh[rng.choice(len(wh), p=weight / weight.sum())])
    return np.array(chosen)


def _k_means(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Move anchors to the mean of their boxes until they rest; the best seen, as means can lose a little IoU."""
    best, best_iou, owner = anchors, 0.0, None
    for _ in range(_MOST_ROUNDS):
        iou = wh_iou(wh, anchors)
        before, owner = owner, iou.argmax(axis=1)
        closest = iou[np.arange(len(wh)), owner]
        if closest.mean() > best_iou:
            best, best_iou = anchors, closest.mean()
        if before is not None and np.array_equal(before, owner):
            break
        members = np.bincount(owner, minlength=len(anchors))
        sums = np.stack([np.bincount(owner, wh[:, axis], len(anchors)) for axis in (0, 1)], axis=1)
        # An anchor that lost all its boxes goes to the one that is served worst.
        anchors = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], wh[closest.argmin()])
    return best
