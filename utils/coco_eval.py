"""COCO's detection metrics: the twelve numbers, AP of every class and the precision curves.

The matching itself is left to the reference implementations. What they get wrong in silence is settled here first:
annotation id 0 counts as "not matched" (a perfect detector then scores AP 0.25), pycocotools fails on zero
detections, and a NaN box scores AP 1.0. Both libraries therefore see checked boxes and ids counted from 1.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from utils.errors import InputError, UsageError
from utils.structures import Detections, ImageRecord

BACKENDS = ("faster", "pycocotools")
MAX_DETECTIONS = 100  # COCO allows a detector so many boxes in an image
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # area ranges in the order both libraries keep them
_IOU_50, _IOU_75 = 0, 5  # positions in COCO's IoU thresholds .50, .55 ... .95


class ClassAP(NamedTuple):
    """Average precision of one class over IoU .50:.95 and at .50; -1 where the truth holds no object of it."""

    ap: float
    ap50: float


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's twelve numbers in [0, 1], -1 where there is no truth to measure by.

    Attributes:
        ap, ap50, ap75: average precision over IoU .50:.95, at .50, at .75.
        ap_small, ap_medium, ap_large: by object area, below 32², between, above 96² pixels.
        ar_1, ar_10, ar_100: average recall with so many detections in an image; ar_small ... as for AP.
        per_class: name -> (ap, ap50), in the order of the labels.
        precision50: float (K, 101), precision at IoU .50 for the recalls 0, 0.01 ... 1; -1 rows for absent classes.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, ClassAP]
    precision50: np.ndarray = field(compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """A flat object for json: the twelve numbers and ``per_class``, name -> {ap, ap50}."""
        numbers = asdict(self)
        del numbers["precision50"]
        numbers["per_class"] = {name: result._asdict() for name, result in self.per_class.items()}
        return numbers


@dataclass(frozen=True)
class BoxTable:
    """Boxes of many images, one row a box.

    Attributes:
        image_ids: int64 (N,).
        labels: int64 (N,) class indices.
        boxes_xywh: float64 (N, 4) left, top, width, height, as COCO keeps them.
        extra: more columns by COCO's name: ``area`` and ``iscrowd`` of truth, ``score`` of detections; each (N,).
        source: what to call the table in errors.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray
    extra: dict[str, np.ndarray]
    source: str

    def annotations(self) -> list[dict[str, Any]]:
        """COCO annotations with ids from 1: both libraries mark an unmatched box with id 0."""
        columns = [self.image_ids.tolist(), self.labels.tolist(), self.boxes_xywh.tolist()]
        columns += [column.tolist() for column in self.extra.values()]
        keys = ("id", "image_id", "category_id", "bbox", *self.extra)
        return [dict(zip(keys, row, strict=True)) for row in zip(range(1, len(self.labels) + 1), *columns, strict=True)]


def evaluate(
    truth: Sequence[ImageRecord],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    *,
    backend: str = "faster",
) -> CocoMetrics:
    """Measure detections against truth as COCO does.

    Args:
        truth: every image that was looked at, those without objects too.
        detections: image id -> what was found there; an image that is missing here is one with nothing found.
        names: class names, by label.
        backend: ``faster`` (faster-coco-eval, C++) or ``pycocotools``; they agree to the last digit.

    Raises:
        InputError: boxes that are not finite or turned inside out, unknown labels or images, ids given twice.
    """
    image_ids = [record.image_id for record in truth]
    return evaluate_tables(image_ids, _truth_table(truth), _detection_table(detections), names, backend=backend)


def evaluate_tables(
    image_ids: Sequence[int],
    truth: BoxTable,
    detections: BoxTable,
    names: Sequence[str],
    *,
    backend: str = "faster",
) -> CocoMetrics:
    """As ``evaluate``, for truth and detections in COCO's own form; ``image_ids`` are the images looked at."""
    if backend not in BACKENDS:
        raise UsageError(f"backend={backend!r}: wanted one of {', '.join(BACKENDS)}")
    check_unique(image_ids, "truth", "image id")
    check_unique(names, "names", "class name")
    if not len(image_ids):
        raise InputError("truth: no images to evaluate on")
    for table in (truth, detections):
        _check_boxes(table, image_ids, len(names))
    # The two columns which the libraries' own readers of results would add.
    areas = detections.boxes_xywh[:, 2] * detections.boxes_xywh[:, 3]
    found = BoxTable(
        detections.image_ids,
        detections.labels,
        detections.boxes_xywh,
        {**detections.extra, "area": areas, "iscrowd": np.zeros(len(areas), dtype=np.int64)},
        detections.source,
    )
    precision, recall = _accumulate(image_ids, len(names), truth.annotations(), found.annotations(), backend)
    return _summarize(precision, recall, names)


def coco_results(detections: Mapping[int, Detections], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in COCO's results format, ``[{image_id, category_id, bbox: [x, y, w, h], score}]``.

    Args:
        detections: image id -> Detections.
        category_ids: the data set's own category id of each label (COCO's 80 classes have ids up to 90).
    """
    table = _detection_table(detections)
    return [
        {
            "image_id": int(image_id),
            "category_id": int(category_ids[label]),
            "bbox": [round(float(value), 3) for value in box],
            "score": round(float(score), 6),
        }
        for image_id, label, box, score in zip(
            table.image_ids, table.labels, table.boxes_xywh, table.extra["score"], strict=True
        )
    ]


def check_unique(values: Sequence[Any], source: str, what: str) -> None:
    """Raise InputError if a value comes twice."""
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        twice = next(value for value in values if value in seen or seen.add(value))
        raise InputError(f"{source}: {what} {twice!r} comes twice (wanted each once); remove or renumber it")


def _truth_table(truth: Sequence[ImageRecord]) -> BoxTable:
    boxes = _stack([record.boxes for record in truth], (0, 4))
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = [_box_areas(record.boxes) if record.areas is None else record.areas for record in truth]
    return BoxTable(
        np.repeat([record.image_id for record in truth], [len(record.boxes) for record in truth]).astype(np.int64),
        _stack([record.labels for record in truth], (0,)).astype(np.int64),
        np.concatenate([boxes[:, :2], sides], axis=1),
        {
            "area": _stack(areas, (0,)),
            "iscrowd": _stack([record.crowd for record in truth], (0,)).astype(np.int64),
        },
        "truth",
    )


def _detection_table(detections: Mapping[int, Detections]) -> BoxTable:
    found = list(detections.values())
    boxes = _stack([one.boxes.cpu().numpy() for one in found], (0, 4))
    return BoxTable(
        np.repeat(np.array(list(detections), dtype=np.int64), [len(one) for one in found]),
        _stack([one.labels.cpu().numpy() for one in found], (0,)).astype(np.int64),
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        {"score": _stack([one.scores.cpu().numpy() for one in found], (0,))},
        "detections",
    )


def _stack(arrays: Sequence[np.ndarray], empty_shape: tuple[int, ...]) -> np.ndarray:
    """Join along the first axis in float64, so that widths are differences without a further rounding."""
    return np.concatenate([np.zeros(empty_shape), *arrays], axis=0, dtype=np.float64)


def _box_areas(boxes: np.ndarray) -> np.ndarray:
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _check_boxes(table: BoxTable, image_ids: Sequence[int], num_classes: int) -> None:
    """Raise InputError at the first row no metric can be computed from."""
    rules = {
        "a number that is not finite": ~np.isfinite(
            np.column_stack([table.boxes_xywh, *table.extra.values()]).astype(np.float64)
        ).all(axis=1),
        "a negative width or height": (table.boxes_xywh[:, 2:] < 0).any(axis=1),
        f"a label outside 0..{num_classes - 1}": (table.labels < 0) | (table.labels >= num_classes),
        "an image id the truth does not have": ~np.isin(table.image_ids, np.asarray(image_ids)),
    }
    for fault, broken in rules.items():
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            box = ", ".join(f"{value:g}" for value in table.boxes_xywh[row])
            raise InputError(
                f"{table.source}: image {table.image_ids[row]}, label {table.labels[row]}, box xywh ({box}): {fault}; "
                f"{int(broken.sum())} such boxes; mend or remove them"
            )


def _accumulate(
    image_ids: Sequence[int], num_classes: int, truth: list[dict], found: list[dict], backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """Match and accumulate: precision (10 IoUs, 101 recalls, K, 4 areas, 3 limits) and recall (10, K, 4, 3).

    The tables are handed over through ``dataset`` and ``createIndex``: the libraries' own readers want files and fail
    on an empty list of results. pycocotools prints as it goes, hence the redirection.
    """
    if backend == "faster":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    images = [{"id": image_id} for image_id in image_ids]
    categories = [{"id": label} for label in range(num_classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        indexes = []
        for annotations in (truth, found):
            index = COCO()
            index.dataset = {"images": images, "categories": categories, "annotations": annotations}
            index.createIndex()
            indexes.append(index)
        evaluator = COCOeval(*indexes, iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _summarize(precision: np.ndarray, recall: np.ndarray, names: Sequence[str]) -> CocoMetrics:
    """The means COCO reports; the last index of both arrays is the limit of 1, 10 or 100 detections."""
    best = precision[..., -1]  # (10, 101, K, 4)
    return CocoMetrics(
        ap=_mean(best[..., _ALL]),
        ap50=_mean(best[_IOU_50, ..., _ALL]),
        ap75=_mean(best[_IOU_75, ..., _ALL]),
        ap_small=_mean(best[..., _SMALL]),
        ap_medium=_mean(best[..., _MEDIUM]),
        ap_large=_mean(best[..., _LARGE]),
        ar_1=_mean(recall[..., _ALL, 0]),
        ar_10=_mean(recall[..., _ALL, 1]),
        ar_100=_mean(recall[..., _ALL, 2]),
        ar_small=_mean(recall[..., _SMALL, 2]),
        ar_medium=_mean(recall[..., _MEDIUM, 2]),
        ar_large=_mean(recall[..., _LARGE, 2]),
        per_class={
            name: ClassAP(_mean(best[:, :, label, _ALL]), _mean(best[_IOU_50, :, label, _ALL]))
            for label, name in enumerate(names)
        },
        precision50=best[_IOU_50, :, :, _ALL].T.copy(),
    )


def _mean(values: np.ndarray) -> float:
    """Mean of what could be measured; COCO marks the rest, classes without truth, with -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
