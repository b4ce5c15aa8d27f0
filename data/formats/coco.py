"""COCO annotation json -> image records, with every inconsistency refused that evaluation would hide."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from utils.errors import DatasetError
from utils.image import printable
from utils.structures import ImageRecord

_FARTHEST = 1e12  # no coordinate or area of an image is larger
_NAMED = 5  # so many ids are named in a message


def read_coco(
    path: Path, folders: Sequence[Path], *, names: Sequence[str] | None = None, allow_outside: bool = False
) -> tuple[tuple[ImageRecord, ...], tuple[str, ...], tuple[int, ...]]:
    """Read an ``instances_*.json``.

    Boxes stay as annotated, only checked to be finite: evaluation needs them unaltered, and ``data.scan`` mends
    them for training.

    Args:
        folders: where the images may lie; the first that holds the first image serves for all.
        names: class names in the wanted order, for example those a network was trained with; default by category id.
        allow_outside: let ``file_name`` be absolute or lead out of the folder.

    Returns:
        Records in the order of the file, the class names, and for each class the category id.

    Raises:
        DatasetError: not a COCO file, ids that are missing, doubled or unknown, numbers that are not finite.
    """
    content = _load(path)
    where = printable(path)
    images = _rows(content, "images", where)
    annotations = _rows(content, "annotations", where)
    category_ids, names = _categories(_rows(content, "categories", where), names, where)
    image_ids = _unique_ids(images, "images", where)
    _unique_ids(annotations, "annotations", where)

    row_of_image = {image_id: row for row, image_id in enumerate(image_ids)}
    label_of_category = {category_id: label for label, category_id in enumerate(category_ids)}
    image_rows = np.array(_look_up(annotations, "image_id", row_of_image, where), np.int64)
    labels = np.array(_look_up(annotations, "category_id", label_of_category, where), np.int64)
    boxes_xywh = _boxes_xywh(annotations, where)
    crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool)
    areas = _areas(annotations, boxes_xywh, where)

    boxes = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1).astype(np.float32)
    order = np.argsort(image_rows, kind="stable")
    borders = np.searchsorted(image_rows[order], np.arange(len(images) + 1))
    paths = _image_paths(images, folders, allow_outside, where)
    records = []
    for row, image in enumerate(images):
        mine = order[borders[row] : borders[row + 1]]
        size = _image_size(image, where)
        records.append(
            ImageRecord(image_ids[row], paths[row], size, boxes[mine], labels[mine], crowd[mine], areas[mine])
        )
    return tuple(records), names, category_ids


def _load(path: Path) -> dict[str, Any]:
    where = printable(path)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{where}: cannot be read: {error.strerror}; check the path") from None
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}:{error.lineno}: not json: {error.msg} (wanted COCO annotations)") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, nested too deep
        raise DatasetError(f"{where}: not json: {type(error).__name__} (wanted COCO annotations)") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{where}: a json {type(content).__name__} (wanted an object with images and annotations)")
    return content


def _rows(content: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list):
        raise DatasetError(f"{where}: no list {key!r} (wanted images, annotations and categories)")
    if not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{where}: {key} holds things that are not objects (wanted a list of objects)")
    if not rows and key != "annotations":
        raise DatasetError(f"{where}: {key} is empty (wanted at least one)")
    return rows


def _unique_ids(rows: list[dict[str, Any]], kind: str, where: str) -> list[int]:
    """The ``id`` of each row: an integer, each only once."""
    ids: list[Any] = [row.get("id") for row in rows]
    wrong = [(row, id_) for row, id_ in enumerate(ids) if type(id_) is not int]
    if wrong:
        raise DatasetError(f"{where}: {kind}[{wrong[0][0]}].id={wrong[0][1]!r}: must be an integer; number them anew")
    if len(set(ids)) < len(ids):
        counts: dict[int, int] = {}
        for id_ in ids:
            counts[id_] = counts.get(id_, 0) + 1
        doubled = [id_ for id_, count in counts.items() if count > 1]
        raise DatasetError(f"{where}: {kind}: id {_listed(doubled)} more than once; make the ids unique")
    return ids


def _look_up(annotations: list[dict[str, Any]], key: str, known: dict[int, int], where: str) -> list[int]:
    try:
        return [known[annotation[key]] for annotation in annotations]
    except (KeyError, TypeError):
        wrong = [row for row in annotations if not isinstance(row.get(key), int) or row[key] not in known]
        ids, values = _listed(row["id"] for row in wrong), _listed({str(row.get(key)) for row in wrong})
        raise DatasetError(f"{where}: annotation {ids}: {key}={values} is not among the {key[:-3]} ids") from None


def _categories(
    rows: list[dict[str, Any]], wanted: Sequence[str] | None, where: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(category id of each label, name of each label); by id, or in the order of ``wanted``."""
    ids = _unique_ids(rows, "categories", where)
    for row in rows:
        if not isinstance(row.get("name"), str):
            raise DatasetError(f"{where}: category {row['id']}: name={row.get('name')!r}: must be text")
    name_of = {id_: row["name"] for id_, row in sorted(zip(ids, rows, strict=True), key=lambda pair: pair[0])}
    if wanted is None:
        return tuple(name_of), tuple(name_of.values())
    id_of = {name: id_ for id_, name in name_of.items()}
    if set(id_of) != set(wanted) or len(wanted) != len(name_of):
        strange = sorted(set(id_of) ^ set(wanted))
        raise DatasetError(
            f"{where}: {len(name_of)} categories, {len(wanted)} class names; {_listed(map(repr, strange))} "
            "on one side only (wanted the same names on both)"
        )
    return tuple(id_of[name] for name in wanted), tuple(wanted)


def _boxes_xywh(annotations: list[dict[str, Any]], where: str) -> np.ndarray:
    """float64 (N, 4) x, y, width, height, finite."""
    rows: list[Any] = [annotation.get("bbox") for annotation in annotations]
    shaped = [isinstance(row, list) and len(row) == 4 and all(type(v) in (int, float) for v in row) for row in rows]
    if not all(shaped):
        wrong = shaped.index(False)
        id_ = annotations[wrong]["id"]
        raise DatasetError(f"{where}: annotation {id_}: bbox={str(rows[wrong])[:80]}: must be [x, y, width, height]")
    boxes = np.array([[_bounded(value) for value in row] for row in rows], np.float64).reshape(-1, 4)
    _check_finite(boxes, annotations, "bbox", where)
    return boxes


def _areas(annotations: list[dict[str, Any]], boxes_xywh: np.ndarray, where: str) -> np.ndarray:
    """float64 (N,): the annotated areas, of the box where there is none."""
    areas = boxes_xywh[:, 2] * boxes_xywh[:, 3]
    for row, annotation in enumerate(annotations):
        area: Any = annotation.get("area")
        if type(area) in (int, float):
            areas[row] = _bounded(area)
        elif area is not None:
            raise DatasetError(f"{where}: annotation {annotation['id']}: area={str(area)[:80]!r}: must be a number")
    _check_finite(areas[:, None], annotations, "area", where)
    return areas


def _bounded(value: float) -> float:
    """``value``, or NaN if it is too large for arithmetic in float32, or for a float at all (json has no limit)."""
    return value if -_FARTHEST < value < _FARTHEST else math.nan


def _check_finite(values: np.ndarray, annotations: list[dict[str, Any]], key: str, where: str) -> None:
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        ids = _listed(annotations[row]["id"] for row in broken)
        raise DatasetError(f"{where}: annotation {ids}: {key} is NaN, infinite or beyond 1e12; mend or remove them")


def _image_size(image: dict[str, Any], where: str) -> tuple[int, int]:
    size: tuple[Any, Any] = (image.get("height"), image.get("width"))
    if not all(type(side) is int and side > 0 for side in size):
        raise DatasetError(f"{where}: image {image['id']}: width={size[1]!r}, height={size[0]!r}: must be pixels")
    return size


def _image_paths(images: list[dict[str, Any]], folders: Sequence[Path], allow_outside: bool, where: str) -> list[Path]:
    names: list[Any] = [image.get("file_name") for image in images]
    for image, name in zip(images, names, strict=True):
        if not isinstance(name, str) or not name or "\0" in name:
            raise DatasetError(f"{where}: image {image['id']}: file_name={name!r}: must be the name of a file")
        if not allow_outside and _leads_outside(name):
            raise DatasetError(f"{where}: image {image['id']}: file_name={name!r} leads out of the image folder")
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), None)
    if folder is None:
        places = ", ".join(printable(folder) for folder in folders)
        raise DatasetError(f"{where}: {names[0]} is in none of {places}; put the images there")
    return [folder / name for name in names]


def _leads_outside(name: str) -> bool:
    forms = (PurePosixPath(name), PureWindowsPath(name))
    return any(form.is_absolute() or form.drive or ".." in form.parts for form in forms)


def _listed(values: Iterable[Any]) -> str:
    """The first few of many values, for a message."""
    values = list(values)
    more = f" and {len(values) - _NAMED} more" if len(values) > _NAMED else ""
    return ", ".join(map(str, values[:_NAMED])) + more
