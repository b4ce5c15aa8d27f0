"""Boxes of many images in one table, the form in which detections are measured against truth.

What no metric can be computed from is refused here: boxes that are not finite, unknown labels, ids given twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.structures import Detections, ImageRecord


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


def truth_table(truth: Sequence[ImageRecord]) -> BoxTable:
    """The annotated boxes of ``truth``, with ``area`` and ``iscrowd``."""
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


def detection_table(detections: Mapping[int, Detections]) -> BoxTable:
    """What was found, by image id, with its ``score``."""
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


def check_unique(values: Sequence[Any], source: str, what: str) -> None:
    """Raise InputError if a value comes twice."""
    if len(set(values)) < len(values):
        seen: set[Any] = set()
        twice = next(value for value in values if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise InputError(f"{source}: {what} {twice!r} comes twice (wanted each once); remove or renumber it")


def check_tables(image_ids: Sequence[int], truth: BoxTable, detections: BoxTable, names: Sequence[str]) -> None:
    """Raise InputError at the first thing no metric can be computed from.

    Args:
        image_ids: the images that were looked at.
        names: class names, by label.
    """
    check_unique(image_ids, "truth", "image id")
    check_unique(names, "names", "class name")
    if not len(image_ids):
        raise InputError("truth: no images to evaluate on")
    for table in (truth, detections):
        _check_rows(table, image_ids, len(names))


def _check_rows(table: BoxTable, image_ids: Sequence[int], num_classes: int) -> None:
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
