"""Look at every image once before training: which do not decode, which have another size, which boxes are wrong.

What was found is remembered in a json file keyed by path, length and modification time, so a second start is instant.
The user's files are never changed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.formats.dataset import Dataset
from data.loading.reader import check_size
from data.scan_memory import ScanMemory
from utils.atomic import atomic_write
from utils.errors import DatasetError, ImageError
from utils.image import printable, read_image
from utils.structures import ImageRecord, Size

BAD_SHARE = {"train": 0.01, "val": 0.0}  # of the images, that is left out; above it training does not start
_NAMED = 5  # so many bad files are named in messages


@dataclass(frozen=True)
class BoxCounts:
    """What became of the boxes: unchanged, cut to the image, dropped for a side under one pixel, doubled."""

    kept: int = 0
    clipped: int = 0
    dropped: int = 0
    duplicates: int = 0

    def __add__(self, other: BoxCounts) -> BoxCounts:
        return BoxCounts(
            self.kept + other.kept,
            self.clipped + other.clipped,
            self.dropped + other.dropped,
            self.duplicates + other.duplicates,
        )

    @property
    def total(self) -> int:
        """All boxes there were."""
        return self.kept + self.clipped + self.dropped + self.duplicates


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
        return [f"{printable(self.dataset.source)}: {self.images:,} images, {self.boxes.total:,} boxes", *self.faults()]

    def faults(self) -> list[str]:
        """What is odd about the data set, one statement a line."""
        dataset, boxes = self.dataset, self.boxes
        lines = list(dataset.notes)
        if self.bad:
            lines.append(f"{len(self.bad):,} images cannot be used and are left out:")
            lines += [f"  {printable(file.path)}: {file.reason}" for file in self.bad[:_NAMED]]
            lines += [f"  and {len(self.bad) - _NAMED:,} more"] * (len(self.bad) > _NAMED)
        done = "left as they are" if dataset.split == "val" else "cut or left out"
        faults = (
            (boxes.clipped, "reach out of their image"),
            (boxes.dropped, "have a side under one pixel"),
            (boxes.duplicates, "come twice"),
        )
        found = [f"{count:,} {fault}" for count, fault in faults if count]
        if found:
            lines.append(f"boxes {done}: {', '.join(found)}")
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
    memory = ScanMemory(Path(dataset.source)) if remember else None
    known = memory.known(record.path for record in dataset.records) if memory else {}
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
    boxes = np.clip(record.boxes, 0, np.array([width, height, width, height], np.float32))
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    changed = (boxes != record.boxes).any(axis=1)
    first = _first_of_equals(record.labels, record.crowd, boxes)
    keep = large & first
    counts = BoxCounts(
        kept=int((keep & ~changed).sum()),
        clipped=int((keep & changed).sum()),
        dropped=int((~large).sum()),
        duplicates=int((large & ~first).sum()),
    )
    areas = None if record.areas is None else record.areas[keep]
    return replace(record, boxes=boxes[keep], labels=record.labels[keep], crowd=record.crowd[keep], areas=areas), counts


def _first_of_equals(*columns: np.ndarray) -> np.ndarray:
    """bool (N,): rows that equal no earlier row. Images have few boxes, where a set beats numpy's sort."""
    seen: set[tuple] = set()
    rows = zip(
        *(column.tolist() if column.ndim == 1 else map(tuple, column.tolist()) for column in columns), strict=True
    )
    return np.array([not (row in seen or seen.add(row)) for row in rows], bool)  # type: ignore[func-returns-value]


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
    accepted = BAD_SHARE[dataset.split] if max_bad is None else max_bad
    count = len(dataset.records)
    if len(bad) > accepted * count or len(bad) == count:
        example = f"{printable(bad[0].path)}: {bad[0].reason}" if bad else "it is empty"
        raise DatasetError(
            f"{printable(dataset.source)}: {len(bad):,} of {count:,} images cannot be used (at most {accepted:.0%}); "
            f"the first: {example}"
        )
