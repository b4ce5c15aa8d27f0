"""Look at every image once before training: which do not decode, which have another size, which boxes are wrong.

What was found is remembered in a json file keyed by path, length and modification time, so a second start is instant.
The user's files are never changed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.dataset import Dataset
from data.reader import check_size
from utils.atomic import atomic_write
from utils.errors import DatasetError, EnvironmentFault, ImageError
from utils.image import printable, read_image
from utils.structures import ImageRecord, Size

_SCHEMA = 1
_MEMORY = ".yolov4_scan.json"
_BAD_SHARE = 0.01  # of the training images
_NAMED = 5  # so many bad files are named in messages

# Length and modification time of a file, and its (H, W) or why it does not decode.
_Finding = tuple[int, int, Size | str]


@dataclass(frozen=True)
class BoxCounts:
    """What became of the boxes: unchanged, cut to the image, dropped for a side under one pixel, doubled."""

    kept: int = 0
    clipped: int = 0
    dropped: int = 0
    duplicates: int = 0

    def __add__(self, other: BoxCounts) -> BoxCounts:
        return BoxCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class BadFile:
    """An image that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class ScanReport:
    """What a scan found.

    Attributes:
        dataset: without the bad images; of a training set the boxes are mended too, those of a validation set stay as
            annotated, because the metric is defined on them.
        bad: the images left out.
        boxes: what was wrong with the boxes.
        images: how many images there were.
        remembered: how many of them an earlier scan had seen.
    """

    dataset: Dataset
    bad: tuple[BadFile, ...]
    boxes: BoxCounts
    images: int
    remembered: int

    def lines(self) -> list[str]:
        """The report for people, one statement a line."""
        dataset, boxes = self.dataset, self.boxes
        lines = [f"{printable(dataset.source)}: {self.images:,} images, {sum(astuple(boxes)):,} boxes", *dataset.notes]
        if self.bad:
            lines.append(f"{len(self.bad):,} images cannot be used and are left out:")
            lines += [f"  {printable(file.path)}: {file.reason}" for file in self.bad[:_NAMED]]
            lines += [f"  and {len(self.bad) - _NAMED:,} more"] * (len(self.bad) > _NAMED)
        verb = "are" if dataset.split == "val" else "were cut or dropped as they are"
        faults = {"reach out of their image": boxes.clipped, "have a side under one pixel": boxes.dropped}
        faults["come twice"] = boxes.duplicates
        found = [f"{count:,} {what}" for what, count in faults.items() if count]
        if found:
            lines.append(f"boxes that {verb} not usable: {', '.join(found)}")
        return lines

    def write_bad_files(self, path: Path) -> None:
        """Write the bad images to a csv: file, reason."""
        write_bad_files(path, self.bad)


def scan(
    dataset: Dataset,
    *,
    workers: int = 2,
    progress: bool = False,
    max_bad: float | None = None,
    bad_files: Path | None = None,
    remember: bool = True,
) -> ScanReport:
    """Decode every image and check every box.

    Args:
        workers: threads.
        progress: show a bar, if standard error is a terminal.
        max_bad: share of bad images that is accepted; default 1 % of a training set, none of a validation set.
        bad_files: a csv that gets the bad images, if there are any.
        remember: use and update what earlier scans found.

    Raises:
        DatasetError: more bad images than accepted, or no good one.
    """
    memory = _Memory(dataset) if remember else None
    known = memory.known(dataset.records) if memory else {}
    fresh = [record.path for record in dataset.records if record.path not in known]
    found = dict(zip(fresh, _decode_all(fresh, workers, progress), strict=True))
    if memory and found:
        memory.add(found)
    bad, good = [], []
    for record in dataset.records:
        reason = _fault(record, known.get(record.path) or found[record.path])
        if reason:
            bad.append(BadFile(record.path, reason))
        else:
            good.append(record)
    if bad and bad_files:
        write_bad_files(bad_files, bad)
    _check_share(dataset, bad, max_bad)
    mended = [mend_boxes(record) for record in good]
    records = tuple(good if dataset.split == "val" else (record for record, _ in mended))
    boxes = sum((counts for _, counts in mended), BoxCounts())
    remembered = len(dataset.records) - len(fresh)
    return ScanReport(replace(dataset, records=records), tuple(bad), boxes, len(dataset.records), remembered)


def mend_boxes(record: ImageRecord) -> tuple[ImageRecord, BoxCounts]:
    """Cut the boxes to the image; drop those with a side under one pixel then, and exact repetitions."""
    height, width = record.size
    boxes = np.clip(record.boxes, 0, np.float32([width, height, width, height]))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    changed = (boxes != record.boxes).any(axis=1)
    rows = np.column_stack([record.labels, record.crowd, boxes])
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, axis=0, return_index=True)[1]] = True
    keep = large & first
    counts = BoxCounts(
        kept=int((keep & ~changed).sum()),
        clipped=int((keep & changed).sum()),
        dropped=int((~large).sum()),
        duplicates=int((large & ~first).sum()),
    )
    areas = None if record.areas is None else record.areas[keep]
    return replace(record, boxes=boxes[keep], labels=record.labels[keep], crowd=record.crowd[keep], areas=areas), counts


def write_bad_files(path: Path, bad: Sequence[BadFile]) -> None:
    """Write bad images to a csv: file, reason. Bytes of names that are not UTF-8 are escaped."""
    with atomic_write(path, binary=False) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", "reason"])
        rows.writerows((printable(one.path), one.reason) for one in bad)


def _decode_all(paths: Sequence[Path], workers: int, progress: bool) -> Iterator[Size | str]:
    """(H, W) of each image, or why it does not decode; in order."""
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        bar = tqdm(total=len(paths), desc="checking images", unit="image", disable=None if progress else True)
        with bar:
            for outcome in pool.map(_decode, paths):
                bar.update()
                yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _decode(path: Path) -> Size | str:
    try:
        height, width = read_image(path).shape[:2]
    except ImageError as error:
        return str(error).removeprefix(f"{printable(path)}: ")
    return height, width


def _fault(record: ImageRecord, outcome: Size | str) -> str:
    """Why an image cannot be used, "" if it can."""
    if isinstance(outcome, str):
        return outcome
    try:
        check_size(record, outcome)
    except DatasetError as error:
        return str(error).removeprefix(f"{printable(record.path)}: ")
    return ""


def _check_share(dataset: Dataset, bad: Sequence[BadFile], max_bad: float | None) -> None:
    accepted = (_BAD_SHARE if dataset.split == "train" else 0.0) if max_bad is None else max_bad
    count = len(dataset.records)
    if len(bad) > accepted * count or len(bad) == count:
        example = f"{printable(bad[0].path)}: {bad[0].reason}" if bad else "it is empty"
        raise DatasetError(
            f"{printable(dataset.source)}: {len(bad):,} of {count:,} images cannot be used (at most {accepted:.0%}); "
            f"the first: {example}"
        )


class _Memory:
    """What earlier scans found: a json file beside the annotations, or where that is read-only in the user's cache."""

    def __init__(self, dataset: Dataset) -> None:
        folder = Path(dataset.source).resolve().parent
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov4"
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self._places = (folder / _MEMORY, cache / f"scan-{name}.json")
        self._findings: dict[str, _Finding] = {}
        for place in reversed(self._places):  # the one beside the annotations has the last word
            self._findings |= _read_findings(place)

    def known(self, records: Sequence[ImageRecord]) -> dict[Path, Size | str]:
        """The outcome for each image that has not changed since."""
        known = {}
        for path in {record.path for record in records}:
            finding = self._findings.get(_key(path))
            if finding and _stamp(path) == finding[:2]:
                known[path] = finding[2]
        return known

    def add(self, outcomes: dict[Path, Size | str]) -> None:
        """Remember outcomes. Where nothing can be written, the next scan decodes again."""
        for path, outcome in outcomes.items():
            stamp = _stamp(path)
            if stamp:
                self._findings[_key(path)] = (*stamp, outcome)
        content = json.dumps({"schema": _SCHEMA, "files": self._findings})
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(place, binary=False) as file:
                    file.write(content)
                return
            except (OSError, EnvironmentFault):
                continue


def _read_findings(place: Path) -> dict[str, _Finding]:
    """The findings in a file; none if it is missing, damaged or of another version."""
    try:
        content = json.loads(place.read_bytes())
        if content["schema"] != _SCHEMA:
            return {}
        return {key: _finding(value) for key, value in content["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _finding(value: Any) -> _Finding:
    length, modified, outcome = value
    if isinstance(outcome, list):
        height, width = outcome
        outcome = (int(height), int(width))
    elif not isinstance(outcome, str):
        raise TypeError(f"{outcome!r} is neither a size nor a reason")
    return int(length), int(modified), outcome


def _key(path: Path) -> str:
    return os.fspath(path.absolute())


def _stamp(path: Path) -> tuple[int, int] | None:
    """Length and modification time (ns)."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
