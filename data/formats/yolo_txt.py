"""Label texts, one beside each image: ``class cx cy w h`` a line, relative to the image -> image records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from utils.errors import DatasetError, ImageError
from utils.image import image_size, printable
from utils.structures import ImageRecord, Size

UNREADABLE: Size = (0, 0)  # the size of an image whose header cannot be read; the scan says why

_LARGEST = 16 << 20  # bytes of a label file
_TOLERANCE = 0.01  # how far outside 0..1 a number may be
_COCO_FOLDERS = frozenset({"train2017", "val2017", "train2014", "val2014"})
_COLUMNS = ("class", "x", "y", "w", "h")

Fault = Literal["file", "columns", "number", "class", "range"]


class BadLabels(NamedTuple):
    """What is wrong with a line of a label file, or with the whole file."""

    kind: Fault
    message: str  # with file and line


def read_yolo_txt(
    images: Sequence[Path], classes: int, *, missing_labels: Literal["background", "error"] = "background"
) -> tuple[tuple[ImageRecord, ...], tuple[str, ...]]:
    """Read the labels of ``images``; the ids are the positions in the list.

    Args:
        missing_labels: whether an image without a label file shows nothing or is an error.

    Returns:
        The records, and notes for the user.

    Raises:
        DatasetError: the first bad line of all files, with the number of others; no label file at all.
    """
    records, missing, faults = [], [], []
    for image_id, path in enumerate(images):
        label_path = find_label(path)
        if label_path is None:
            missing.append(path)
        try:
            size = image_size(path)
        except ImageError:
            size = UNREADABLE
        rows, bad = read_labels(label_path, classes) if label_path else (np.zeros((0, 5)), [])
        faults += bad
        crowd = np.zeros(len(rows), bool)
        records.append(ImageRecord(image_id, path, size, _to_pixels(rows[:, 1:], size), rows[:, 0].astype(int), crowd))
    if faults:
        more = f"; {len(faults) - 1} more bad lines" if len(faults) > 1 else ""
        raise DatasetError(f"{faults[0].message}{more}")
    return tuple(records), _on_missing(missing, len(images), missing_labels)


def label_paths(image: Path) -> tuple[Path, ...]:
    """Where the labels of an image may lie, the likeliest first.

    Beside it, or in a folder ``labels`` for the ``images`` or ``JPEGImages`` of its path. Darknet knows the second form
    for JPEGImages and COCO's folders only, Ultralytics knows no other.
    """
    beside = image.with_suffix(".txt")
    parts = beside.parts
    swaps = [place for place, part in enumerate(parts[:-1]) if part in ("images", "JPEGImages")]
    swapped = [Path(*parts[:place], "labels", *parts[place + 1 :]) for place in reversed(swaps)]
    darknet = any(parts[place] == "JPEGImages" or parts[place + 1] in _COCO_FOLDERS for place in swaps)
    return (*swapped, beside) if darknet else (beside, *swapped)


def find_label(image: Path) -> Path | None:
    """The label file of an image, None if there is none."""
    return next((path for path in label_paths(image) if path.is_file()), None)


def read_labels(path: Path, classes: int) -> tuple[np.ndarray, list[BadLabels]]:
    """Read a label file; a bad line does not hide the others.

    Returns:
        float64 (N, 5): class, centre and size, relative; and what is wrong, one entry for each bad line.
    """
    where = printable(path)
    try:
        if path.stat().st_size > _LARGEST:
            return _unread(f"{where}: {path.stat().st_size:,} bytes (at most {_LARGEST:,})")
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        return _unread(f"{where}: cannot be read: {error.strerror}; check the file")
    except UnicodeDecodeError as error:
        return _unread(f"{where}: not text ({error.reason} at byte {error.start})")
    rows, bad = [], []
    for number, line in enumerate(lines, start=1):
        tokens = line.split()
        if not tokens:
            continue
        row = _parse(tokens, classes)
        if isinstance(row, BadLabels):
            bad.append(BadLabels(row.kind, f"{where}:{number}: {row.message}"))
        else:
            rows.append(row)
    return np.array(rows, np.float64).reshape(-1, 5), bad


def _unread(message: str) -> tuple[np.ndarray, list[BadLabels]]:
    return np.zeros((0, 5)), [BadLabels("file", message)]


def _parse(tokens: list[str], classes: int) -> list[float] | BadLabels:
    """The numbers of a line, or what is wrong with them."""
    if len(tokens) != 5:
        return BadLabels("columns", f"{len(tokens)} columns (wanted 5: class x y w h)")
    values = []
    for name, token in zip(_COLUMNS, tokens, strict=True):
        try:
            values.append(float(token))
        except ValueError:
            return BadLabels("number", f"{name}={token[:40]}: not a number")
        if not math.isfinite(values[-1]):
            return BadLabels("number", f"{name}={token[:40]}: not finite")
    if not values[0].is_integer() or not 0 <= values[0] < classes:
        named = f"the data set names {classes} class{'' if classes == 1 else 'es'}"
        return BadLabels("class", f"class={tokens[0][:40]}: 0..{classes - 1} ({named})")
    for name, token, value in zip(_COLUMNS[1:], tokens[1:], values[1:], strict=True):
        if not -_TOLERANCE <= value <= 1 + _TOLERANCE:
            return BadLabels("range", f"{name}={token[:40]}: 0..1 (relative to the image; are these pixels?)")
    return values


def _to_pixels(boxes_cxcywhn: np.ndarray, size: Size) -> np.ndarray:
    """float32 (N, 4) xyxy pixels."""
    centres, halves = boxes_cxcywhn[:, :2], boxes_cxcywhn[:, 2:] / 2
    corners = np.concatenate([centres - halves, centres + halves], axis=1)
    return (corners * [size[1], size[0], size[1], size[0]]).astype(np.float32)


def _on_missing(missing: list[Path], count: int, rule: str) -> tuple[str, ...]:
    if not missing:
        return ()
    first = printable(missing[0])
    if len(missing) == count:
        places = " and ".join(printable(path) for path in label_paths(missing[0]))
        raise DatasetError(f"{first}: none of the {count} images has a label file; looked for {places}")
    one = len(missing) == 1
    line = f"{first}: no label file ({len(missing):,} of {count:,} images {'has' if one else 'have'} none)"
    if rule == "error":
        raise DatasetError(f"{line}; give each image one, empty where it shows no object")
    return (f"{line}; taken as {'an image' if one else 'images'} without objects",)
