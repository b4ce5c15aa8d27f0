"""Which detection met which object: the confusion matrix, and what went wrong in each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils.boxes import area, box_iou
from utils.structures import Detections, ImageRecord


@dataclass(frozen=True)
class ImageMatches:
    """Objects and detections of one image, paired one to one.

    Attributes:
        record: the truth, M objects.
        boxes: float32 (N, 4) xyxy original pixels, the detections above the score threshold, by falling score.
        labels: int64 (N,).
        scores: float32 (N,).
        matched: int64 (N,), the object each detection met, whatever its class; -1 for none.
        correct: bool (N,), detections that met an object of their own class.
        excused: bool (N,), detections inside a crowd region of their class, neither right nor wrong.
    """

    record: ImageRecord
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    correct: np.ndarray
    excused: np.ndarray

    @property
    def false(self) -> np.ndarray:
        """bool (N,): detections that met nothing, or an object of another class."""
        return ~self.correct & ~self.excused

    @property
    def missed(self) -> np.ndarray:
        """bool (M,): objects that no detection of their class met."""
        missed = ~self.record.crowd.astype(bool)
        missed[self.matched[self.correct]] = False
        return missed

    @property
    def mistakes(self) -> int:
        """Missed objects plus false detections."""
        return int(self.missed.sum() + self.false.sum())


def match_image(
    record: ImageRecord, detections: Detections, *, score_threshold: float = 0.25, iou_threshold: float = 0.5
) -> ImageMatches:
    """Pair detections with objects, best scores first.

    Objects go to detections of their own class first and what is left to any class, so that a stray box of a wrong
    class never takes an object that was found.
    """
    keep = detections.scores >= score_threshold
    boxes, labels = detections.boxes[keep].cpu(), detections.labels[keep].cpu().numpy()
    truth = torch.as_tensor(record.boxes, dtype=torch.float32)
    overlaps = box_iou(boxes.float(), truth).numpy()  # (N, M)
    same_class = labels[:, None] == record.labels[None]
    crowd = record.crowd.astype(bool)

    matched = np.full(len(labels), -1, dtype=np.int64)
    _pair(overlaps * (same_class & ~crowd), iou_threshold, matched)
    correct = matched >= 0
    _pair(overlaps * ~crowd, iou_threshold, matched)
    covered = _covered(overlaps, boxes, truth) >= iou_threshold
    return ImageMatches(
        record=record,
        boxes=boxes.numpy(),
        labels=labels,
        scores=detections.scores[keep].cpu().numpy(),
        matched=matched,
        correct=correct,
        excused=(matched < 0) & (covered & same_class & crowd).any(axis=1),
    )


def match_images(
    truth: Sequence[ImageRecord], detections: Mapping[int, Detections], *, score_threshold: float = 0.25
) -> list[ImageMatches]:
    """``match_image`` for every image of the truth; one without an entry in ``detections`` has none."""
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    return [
        match_image(record, detections.get(record.image_id, nothing), score_threshold=score_threshold)
        for record in truth
    ]


def confusion_matrix(matches: Iterable[ImageMatches], num_classes: int) -> np.ndarray:
    """Counts, int64 (K+1, K+1): row = class of the object, column = class detected, the last of both = background."""
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    background = num_classes
    for image in matches:
        met = image.matched >= 0
        np.add.at(matrix, (image.record.labels[image.matched[met]], image.labels[met]), 1)
        np.add.at(matrix, (background, image.labels[~met & ~image.excused]), 1)
        unmet = ~image.record.crowd.astype(bool)
        unmet[image.matched[met]] = False
        np.add.at(matrix, (image.record.labels[unmet], background), 1)
    return matrix


def _pair(overlaps: np.ndarray, iou_threshold: float, matched: np.ndarray) -> None:
    """Give each unmatched row, in order, the free column it overlaps most; fills ``matched`` in place."""
    if not overlaps.size:
        return
    free = np.ones(overlaps.shape[1], dtype=bool)
    free[matched[matched >= 0]] = False
    for row in np.flatnonzero(matched < 0):
        candidates = overlaps[row] * free
        best = int(candidates.argmax())
        if candidates[best] >= iou_threshold:
            matched[row] = best
            free[best] = False


def _covered(overlaps: np.ndarray, boxes: Tensor, truth: Tensor) -> np.ndarray:
    """The share of each detection that lies inside each object (N, M), COCO's overlap with a crowd region."""
    areas = area(boxes).numpy()[:, None]
    intersections = overlaps / (1 + overlaps) * (areas + area(truth).numpy()[None])
    return intersections / np.maximum(areas, np.finfo(np.float32).tiny)
