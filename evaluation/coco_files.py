"""Evaluation of files alone: COCO truth json against results json, whichever detector wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from data.formats.dataset import Split, load_dataset
from evaluation.box_table import BoxTable, check_unique
from evaluation.coco import CocoMetrics, evaluate_tables
from utils.errors import InputError, UsageError

_MISSING = object()


Tables = tuple[list[int], BoxTable, BoxTable, list[str]]  # image ids, truth, detections, class names by label


def evaluate_files(truth_path: Path, results_path: Path, *, backend: str = "faster") -> CocoMetrics:
    """Measure a COCO results file against a COCO annotation file, over all images of the latter.

    Raises:
        InputError: files that are not of this form, ids that come twice, boxes no metric can be computed from.
    """
    return evaluate_tables(*read_tables(truth_path, results_path), backend=backend)


def read_tables(truth_path: Path, results_path: Path) -> Tables:
    """What both files say, in the form that every metric takes.

    Raises:
        InputError: files that are not of this form, ids that come twice.
    """
    truth = _read_json(truth_path)
    if not isinstance(truth, dict):
        raise InputError(f"{truth_path}: a json list (wanted an object with images, annotations and categories)")
    image_ids = _column(_rows(truth, "images", truth_path), "id", _integer)
    names_by_id = _category_names(_rows(truth, "categories", truth_path), truth_path)
    labels = {category_id: label for label, category_id in enumerate(sorted(names_by_id))}
    return (
        image_ids,
        _truth_table(_rows(truth, "annotations", truth_path), labels, truth_path),
        _results_table(_rows(_read_json(results_path), None, results_path), labels, results_path),
        [names_by_id[category_id] for category_id in labels],
    )


def truth_file(data: str, split: Split) -> Path:
    """The COCO annotations that results are measured against: ``data`` itself, or its file for the split.

    Raises:
        UsageError: a data set of another form.
    """
    given = Path(data)
    if given.suffix == ".json":
        return given
    source = Path(load_dataset(data, split).source)
    if source.suffix != ".json":
        raise UsageError(f"--results: needs COCO annotations with image ids, --data {data} has none")
    return source


# A row is a json object together with the words that name it in an error.
_Row = tuple[str, dict[str, Any]]


def _truth_table(rows: list[_Row], labels: dict[int, int], path: Path) -> BoxTable:
    check_unique(_column(rows, "id", _integer), str(path), "annotation id")
    boxes_xywh = _boxes(rows)
    default_areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    areas = [_value(row, "area", _number, default=float(area)) for row, area in zip(rows, default_areas, strict=True)]
    crowd = [int(_value(row, "iscrowd", _integer, default=0) != 0) for row in rows]
    extra = {"area": np.array(areas, dtype=np.float64), "iscrowd": np.array(crowd, dtype=np.int64)}
    return _table(rows, labels, boxes_xywh, extra, path)


def _results_table(rows: list[_Row], labels: dict[int, int], path: Path) -> BoxTable:
    scores = np.array(_column(rows, "score", _number), dtype=np.float64)
    return _table(rows, labels, _boxes(rows), {"score": scores}, path)


def _table(
    rows: list[_Row], labels: dict[int, int], boxes_xywh: np.ndarray, extra: dict[str, np.ndarray], path: Path
) -> BoxTable:
    category_ids = _column(rows, "category_id", _integer)
    for (where, _), category_id in zip(rows, category_ids, strict=True):
        if category_id not in labels:
            raise InputError(f"{where}: category_id={category_id} is not among the truth's categories")
    return BoxTable(
        np.array(_column(rows, "image_id", _integer), dtype=np.int64),
        np.array([labels[category_id] for category_id in category_ids], dtype=np.int64),
        boxes_xywh,
        extra,
        str(path),
    )


def _category_names(rows: list[_Row], path: Path) -> dict[int, str]:
    ids = _column(rows, "id", _integer)
    check_unique(ids, str(path), "category id")
    return dict(zip(ids, _column(rows, "name", _text), strict=True))


def _boxes(rows: list[_Row]) -> np.ndarray:
    return np.array(_column(rows, "bbox", _four_numbers), dtype=np.float64).reshape(-1, 4)


def _read_json(path: Path) -> Any:
    """Parse a json file; NaN and Infinity, which Python's reader would let pass, are errors."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"it holds {constant}")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not the json of COCO ({error}); write the file again") from error


def _rows(container: Any, key: str | None, path: Path) -> list[_Row]:
    """The objects of a list, each with its name for errors; ``key=None`` takes the container itself."""
    items = container if key is None else container.get(key)
    label = "results" if key is None else key
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise InputError(f"{path}: {label} is {type(items).__name__} (wanted a list of objects)")
    return [(f"{path}: {label}[{index}]", item) for index, item in enumerate(items)]


def _column(rows: Sequence[_Row], key: str, convert: Callable[[Any], Any]) -> list[Any]:
    return [_value(row, key, convert) for row in rows]


def _value(row: _Row, key: str, convert: Callable[[Any], Any], default: Any = _MISSING) -> Any:
    where, item = row
    if key not in item:
        if default is _MISSING:
            raise InputError(f"{where}: no {key} (wanted {convert.__doc__})")
        return default
    try:
        return convert(item[key])
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {key}={item[key]!r} (wanted {convert.__doc__})") from None


def _integer(value: Any) -> int:
    """a whole number"""
    if isinstance(value, bool) or int(value) != value or abs(value) >= 2**63:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    """a number"""
    if isinstance(value, (bool, str)):
        raise TypeError
    return float(value)


def _four_numbers(value: Any) -> list[float]:
    """[left, top, width, height]"""
    if not isinstance(value, list) or len(value) != 4:
        raise TypeError
    return [_number(part) for part in value]


def _text(value: Any) -> str:
    """a text"""
    if not isinstance(value, str):
        raise TypeError
    return value
