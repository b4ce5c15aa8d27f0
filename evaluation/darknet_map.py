"""Darknet's own measures of a detector: mAP at one IoU, as ``darknet detector map``, and ``detector recall``.

They differ from COCO's: one IoU threshold; a detection takes the truth it overlaps most, taken or not; any number of
detections an image; classes without truth count as 0 in the mean. Crowd boxes are no truth: label texts have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from evaluation.box_table import BoxTable, check_tables
from utils.errors import UsageError

AREA, VOC_2007, COCO_101 = POINTS = (0, 11, 101)  # how the precision curve is summed up
IOU_THRESHOLD = 0.5
CONF_THRESHOLD = 0.25
_PAIRS = 2**20  # boxes compared at a time


class ClassMap(NamedTuple):
    """Average precision of one class, and its true and false positives above the confidence threshold."""

    ap: float
    tp: int
    fp: int


@dataclass(frozen=True)
class DarknetMap:
    """What ``darknet detector map`` prints; shares in [0, 1], 0 where there is nothing to divide by.

    Attributes:
        map: mean AP over all classes, those without truth included.
        precision, recall, f1, tp, fp, fn: of the detections whose score exceeds ``conf_threshold``.
        average_iou: the IoU of the true positives among them, summed and divided by the number of all of them.
        per_class: name -> (ap, tp, fp), in the order of the labels.
        detections, truths: how many boxes were measured, whatever their score.
        iou_threshold: a detection must overlap its truth by more.
        points: recalls at which precision is read (11, 101), or 0 for the area under the whole curve.
    """

    map: float
    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int
    average_iou: float
    per_class: dict[str, ClassMap]
    detections: int
    truths: int
    iou_threshold: float
    conf_threshold: float
    points: int

    def as_dict(self) -> dict[str, Any]:
        """A flat object for json."""
        return {**asdict(self), "per_class": {name: result._asdict() for name, result in self.per_class.items()}}

    def lines(self) -> Iterator[str]:
        """Darknet's own lines, which people's scripts read."""
        yield f" detections_count = {self.detections}, unique_truth_count = {self.truths}"
        for label, (name, result) in enumerate(self.per_class.items()):
            yield (
                f"class_id = {label}, name = {name}, ap = {100 * result.ap:2.2f}%   \t "
                f"(TP = {result.tp}, FP = {result.fp})"
            )
        above = f" for conf_thresh = {self.conf_threshold:1.2f}, "
        yield f"\n{above}precision = {self.precision:1.2f}, recall = {self.recall:1.2f}, F1-score = {self.f1:1.2f}"
        yield f"{above}TP = {self.tp}, FP = {self.fp}, FN = {self.fn}, average IoU = {100 * self.average_iou:2.2f} %"
        curve = f"{self.points} Recall-points" if self.points else "Area-Under-Curve for each unique Recall"
        yield f"\n IoU threshold = {100 * self.iou_threshold:2.0f} %, used {curve}"
        name = f"mAP@{self.iou_threshold:0.2f}"
        yield f" mean average precision ({name}) = {self.map:f}, or {100 * self.map:2.2f} %"


@dataclass(frozen=True)
class ProposalRecall:
    """What ``darknet detector recall`` prints: how well boxes of any class cover the truth.

    Attributes:
        correct: truth boxes that some proposal overlaps by more than the IoU threshold.
        total: truth boxes.
        images: images looked at.
        proposals_per_image: how many boxes that took.
        mean_iou: of each truth box with its best proposal.
        recall: correct / total.
    """

    correct: int
    total: int
    images: int
    proposals_per_image: float
    mean_iou: float
    recall: float

    def as_dict(self) -> dict[str, Any]:
        """A flat object for json."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Darknet's last line."""
        yield (
            f"{self.images:5d} {self.correct:5d} {self.total:5d}\tRPs/Img: {self.proposals_per_image:.2f}\t"
            f"IOU: {100 * self.mean_iou:.2f}%\tRecall:{100 * self.recall:.2f}%"
        )


def darknet_map(
    image_ids: Sequence[int],
    truth: BoxTable,
    detections: BoxTable,
    names: Sequence[str],
    *,
    points: int = AREA,
    iou_threshold: float = IOU_THRESHOLD,
    conf_threshold: float = CONF_THRESHOLD,
) -> DarknetMap:
    """Measure detections as ``darknet detector map`` does (validate_detector_map).

    Each detection belongs to the truth of its image and class that it overlaps most, if by more than
    ``iou_threshold``. By falling score the first detection of a truth is a true positive, all others are false.

    Darknet counts the positives above ``conf_threshold`` image by image in the order its suppression happens to
    leave; here they too go by falling score.

    Args:
        image_ids: the images that were looked at.
        names: class names, by label.
        points: 0, 11 (VOC 2007) or 101 (COCO).

    Raises:
        UsageError: another number of points.
        InputError: what ``check_tables`` refuses.
    """
    if points not in POINTS:
        raise UsageError(f"points={points}: wanted 0 (area under the curve), 11 or 101")
    check_tables(image_ids, truth, detections, names)
    truth_images, truth_boxes, truth_labels = _without_crowd(truth)
    scores, boxes = detections.extra["score"], _corners(detections.boxes_xywh)
    per_class, iou_sum = {}, 0.0
    for label, name in enumerate(names):
        mine = np.flatnonzero(detections.labels == label)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        wanted = truth_labels == label
        best, iou = _best_overlap(
            detections.image_ids[mine], boxes[mine], truth_images[wanted], truth_boxes[wanted], above=iou_threshold
        )
        hit = _first_of_each(best)
        sure = scores[mine] > conf_threshold
        tp = int((hit & sure).sum())
        iou_sum += float(iou[hit & sure].sum())
        per_class[name] = ClassMap(_average_precision(hit, int(wanted.sum()), points), tp, int(sure.sum()) - tp)
    thresholds = {"iou_threshold": iou_threshold, "conf_threshold": conf_threshold, "points": points}
    return _over_classes(per_class, iou_sum, detections=len(scores), truths=len(truth_labels), **thresholds)


def _over_classes(per_class: dict[str, ClassMap], iou_sum: float, *, truths: int, **more: Any) -> DarknetMap:
    """The figures of all classes together.

    Args:
        iou_sum: over the true positives.
        more: what `DarknetMap` keeps as it is.
    """
    tp, fp = (sum(getattr(result, key) for result in per_class.values()) for key in ("tp", "fp"))
    return DarknetMap(
        map=float(np.mean([result.ap for result in per_class.values()])),
        precision=_share(tp, tp + fp),
        recall=_share(tp, truths),
        f1=_share(2 * tp, 2 * tp + fp + truths - tp),
        tp=tp,
        fp=fp,
        fn=truths - tp,
        average_iou=_share(iou_sum, tp + fp),
        per_class=per_class,
        truths=truths,
        **more,
    )


def proposal_recall(
    image_ids: Sequence[int],
    truth: BoxTable,
    proposals: BoxTable,
    names: Sequence[str],
    *,
    iou_threshold: float = IOU_THRESHOLD,
) -> ProposalRecall:
    """Measure how proposals cover the truth, whatever the classes (Darknet's validate_detector_recall).

    Raises:
        InputError: what ``check_tables`` refuses.
    """
    check_tables(image_ids, truth, proposals, names)
    images, boxes, _ = _without_crowd(truth)
    _, iou = _best_overlap(images, boxes, proposals.image_ids, _corners(proposals.boxes_xywh), above=0.0)
    correct = int((iou > iou_threshold).sum())
    return ProposalRecall(
        correct=correct,
        total=len(iou),
        images=len(image_ids),
        proposals_per_image=len(proposals.labels) / len(image_ids),
        mean_iou=_share(float(iou.sum()), len(iou)),
        recall=_share(correct, len(iou)),
    )


def _best_overlap(
    images: np.ndarray, boxes: np.ndarray, other_images: np.ndarray, others: np.ndarray, *, above: float
) -> tuple[np.ndarray, np.ndarray]:
    """For each box the box of its image among ``others`` that it overlaps most, the first of equals.

    Args:
        images, boxes: (N,) and (N, 4) xyxy.
        other_images, others: (M,) and (M, 4).
        above: overlaps up to this IoU do not count.

    Returns:
        Index into ``others``, -1 where there is none, and the IoU, then 0; both (N,).
    """
    order = np.argsort(other_images, kind="stable")
    first, last = (np.searchsorted(other_images[order], images, side) for side in ("left", "right"))
    ends = np.cumsum(last - first)
    best, best_iou = np.full(len(images), -1), np.zeros(len(images))
    cuts = np.searchsorted(ends, np.arange(_PAIRS, ends[-1] if len(ends) else 0, _PAIRS))
    for rows in np.split(np.arange(len(images)), cuts):
        counts = last[rows] - first[rows]
        row = np.repeat(rows, counts)  # (P,) pairs: box ``row`` with ``column`` of the others
        column = order[np.repeat(first[rows] - np.cumsum(counts) + counts, counts) + np.arange(len(row))]
        iou = _pair_iou(boxes[row], others[column])
        np.maximum.at(best_iou, row, iou)
        winners = np.flatnonzero((iou > above) & (iou == best_iou[row]))[::-1]  # of equals the first is written last
        best[row[winners]] = column[winners]
    best_iou[best < 0] = 0
    return best, best_iou


def _pair_iou(boxes1: np.ndarray, boxes2: np.ndarray) -> np.ndarray:
    """IoU of matching pairs, (P, 4) xyxy both; 0 where a box has no area."""
    low, high = np.maximum(boxes1[:, :2], boxes2[:, :2]), np.minimum(boxes1[:, 2:], boxes2[:, 2:])
    intersection = np.maximum(high - low, 0).prod(axis=1)
    union = sum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (boxes1, boxes2)) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _first_of_each(best: np.ndarray) -> np.ndarray:
    """Bool (N,): whether a detection is the first that found its truth; ``best`` is by falling score."""
    found = np.flatnonzero(best >= 0)
    hit = np.zeros(len(best), dtype=bool)
    hit[found[np.unique(best[found], return_index=True)[1]]] = True
    return hit


def _average_precision(hit: np.ndarray, truths: int, points: int) -> float:
    """AP of one class from its hits (N,) by falling score; 0 where there is no truth or no detection."""
    if not truths or not len(hit):
        return 0.0
    tp = np.cumsum(hit)
    recall, precision = tp / truths, tp / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    if points == AREA:
        return float(np.sum(np.diff(recall, prepend=0) * envelope))
    reached = np.searchsorted(recall, np.arange(points) / (points - 1))
    return float(np.append(envelope, 0)[reached].mean())


def _without_crowd(truth: BoxTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ids, xyxy boxes and labels of single objects."""
    single = truth.extra["iscrowd"] == 0
    return truth.image_ids[single], _corners(truth.boxes_xywh[single]), truth.labels[single]


def _corners(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]), axis=1)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
