"""COCO's detection metrics: the twelve numbers, AP of every class and the precision curves.

The matching itself is left to the reference implementations. What they get wrong in silence is settled here first:
annotation id 0 counts as "not matched" (a perfect detector then scores AP 0.25), pycocotools fails on zero
detections, and a NaN box scores AP 1.0. Both libraries therefore see checked boxes and ids counted from 1.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from evaluation.box_table import BoxTable, check_tables, detection_table, truth_table
from utils.errors import UsageError
from utils.structures import Detections, ImageRecord

BACKENDS = ("faster", "pycocotools")
MAX_DETECTIONS = 1000  # of an image: bounds an untrained network; the evaluator takes the best 100 of each class
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

    def lines(self) -> Iterator[str]:
        """For people: every class, AP50 (the number Darknet's users know), and COCO's twelve."""
        width = max([len("class"), *map(len, self.per_class)])
        yield f"{'class':{width}}     AP   AP50"
        for name, result in self.per_class.items():
            yield f"{name:{width}}  {_shown(result.ap)}  {_shown(result.ap50)}"
        yield f"\nAP50 {_shown(self.ap50)}\n"
        rows = (
            ("average precision", ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")),
            ("average recall", ("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large")),
        )
        for title, keys in rows:
            numbers = "  ".join(f"{key} {_shown(getattr(self, key))}" for key in keys)
            yield f"{title:17}  {numbers}"


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
    return evaluate_tables(image_ids, truth_table(truth), detection_table(detections), names, backend=backend)


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
    check_tables(image_ids, truth, detections, names)
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
    table = detection_table(detections)
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


def _shown(value: float) -> str:
    """Three decimals, or a dash for what could not be measured because the truth holds no such object."""
    return f"{value:5.3f}" if value >= 0 else "    -"


def _mean(values: np.ndarray) -> float:
    """Mean of what could be measured; COCO marks the rest, classes without truth, with -1."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
