"""What is wrong with the labels of a data set: names, classes, boxes, lines that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.formats.dataset import Dataset, Split
from data.formats.dataset_files import read_data_file, read_yaml
from data.formats.yolo_txt import Fault, find_label, read_labels
from data.scan import BAD_SHARE, ScanReport
from training.checks.findings import Finding
from utils.image import printable
from utils.structures import ImageRecord, class_counts

_FEW = 20  # boxes, from which little can be learned
_RARE = 1 / 50  # of the boxes of the commonest class
_ENOUGH = 100  # boxes, of which the shares of the classes mean something
_DIFFERENT = 0.35  # of the boxes would have to change their class
_MANY = 0.05  # of the boxes
_ANY_LABEL = 1 << 31
_ROWS = 20  # of the table of classes
_BAR = 40  # characters of the longest bar in it
_NAMED = 3  # so many are named in messages


def name_findings(names: Sequence[str], source: str) -> Iterator[Finding]:
    """Names that are blank or come twice."""
    source = printable(source)
    blank = [str(label) for label, name in enumerate(names) if not name.strip()]
    if blank:
        yield Finding("serious", f"{source}: class {_listed(blank)} has a blank name", "give every class a name")
    plain = Counter(name.strip().casefold() for name in names if name.strip())
    doubled = [name for name, count in plain.items() if count > 1]
    if doubled:
        spellings = [" = ".join(repr(name) for name in names if name.strip().casefold() == one) for one in doubled]
        yield Finding(
            "serious" if len(set(names)) < len(names) else "warning",
            f"{source}: names that come more than once: {_listed(spellings)}",
            "give the classes different names, or one number if they are the same thing",
        )


def class_findings(train_set: Dataset, val_set: Dataset, *, things: str = "boxes") -> Iterator[Finding]:
    """Classes that are missing somewhere, or that have other shares of the two splits.

    Args:
        things: what carries a label; a classifier's are images.
    """
    names = train_set.names
    train, val = _class_counts(train_set, val_set)
    yield from _absent(train, val, names, things)
    if min(train.sum(), val.sum()) < _ENOUGH:
        return
    gap = train / train.sum() - val / val.sum()
    if (different := np.abs(gap).sum() / 2) >= _DIFFERENT:
        most = int(np.abs(gap).argmax())
        yield Finding(
            "warning",
            f"training and validation images show other things: of {names[most]!r} are "
            f"{train[most] / train.sum():.0%} of the {things} here and {val[most] / val.sum():.0%} there "
            f"(in all {different:.0%} of them differ)",
            "check that the labels of both were made with the same order of names, and split at random",
        )


def balance_findings(train_set: Dataset, *, things: str = "boxes", weighted: bool = False) -> Iterator[Finding]:
    """Classes with few training examples.

    Args:
        things: what carries a label; a classifier's are images.
        weighted: the classes are given weights already.
    """
    names, counts = train_set.names, np.array(class_counts(train_set.records, len(train_set.names)))
    few = (counts > 0) & ((counts < _FEW) | (counts < _RARE * counts.max()))
    if not few.any():
        return
    yield Finding(
        "warning",
        f"classes with few training {things}: {_counted(few, counts, names)} (the commonest {counts.max():,})",
        "get more pictures of them" + ("" if weighted else ", or let them count for more: --class-weights auto"),
    )


def class_lines(train_set: Dataset, val_set: Dataset, *, things: str = "boxes") -> Iterator[str]:
    """A table for people: how often each class comes; of many classes the commonest and the rarest."""
    names, (train, val) = train_set.names, _class_counts(train_set, val_set)
    order = np.argsort(-train, kind="stable").tolist()
    shown = order if len(order) <= _ROWS else [*order[: _ROWS // 2], *order[-_ROWS // 2 :]]
    width = max(len("class"), *(len(names[label]) for label in shown))
    yield f"{'class':{width}}  {things + ' train':>12}  {'val':>7}"
    for row, label in enumerate(shown):
        if row == _ROWS // 2 and len(order) > _ROWS:
            yield f"... {len(order) - _ROWS} more classes"
        bar = "#" * max(int(train[label] > 0), round(_BAR * train[label] / max(1, train.max())))
        yield f"{names[label]:{width}}  {train[label]:12,}  {val[label]:7,}  {bar}".rstrip()


def _class_counts(*datasets: Dataset) -> list[np.ndarray]:
    return [np.array(class_counts(dataset.records, len(dataset.names))) for dataset in datasets]


def _absent(train: np.ndarray, val: np.ndarray, names: Sequence[str], things: str) -> Iterator[Finding]:
    unused, untaught, unmeasured = (train == 0) & (val == 0), (train == 0) & (val > 0), (train > 0) & (val == 0)
    if unused.any():
        hint = "labels count from 0: is every one of yours too large by one? Else " if unused[0] else ""
        yield Finding(
            "warning",
            f"of {len(names)} classes these have no {things} at all: {_named(unused, names)}",
            f"{hint}remove the names that no label uses, and number the labels anew",
        )
    if untaught.any():
        yield Finding(
            "serious",
            f"classes with validation {things} only: {_counted(untaught, val, names)}; "
            "nothing can learn them, and AP counts them as 0",
            "move some of their pictures to the training images, or remove the classes",
        )
    if unmeasured.any():
        yield Finding(
            "warning",
            f"classes with training {things} only, not measured: {_named(unmeasured, names)}",
            "move some of their pictures to the validation images",
        )


def box_findings(dataset: Dataset) -> Iterator[Finding]:
    """Boxes whose numbers seem to mean something else, or that contradict each other.

    Args:
        dataset: as annotated, before a scan mends its boxes.
    """
    records = [record for record in dataset.records if 0 not in record.size]
    yield from _bare(records, dataset)
    if not any(len(record.boxes) for record in records):
        return
    boxes = np.concatenate([record.boxes for record in records]).astype(np.float64)
    owner = np.repeat(np.arange(len(records)), [len(record.boxes) for record in records])
    limits = np.array([record.size[::-1] for record in records], np.float64)[owner]  # (N, 2) width, height
    yield from _outside(boxes, limits, dataset)
    tiny = ((boxes[:, 2:] - boxes[:, :2]) < 1).any(axis=1)
    if tiny.mean() > _MANY:
        yield Finding(
            "serious" if tiny.mean() > 0.5 else "warning",
            f"{printable(dataset.source)}: {tiny.sum():,} of {len(boxes):,} {dataset.split} boxes have a side under "
            "one pixel and are left out",
            "check the unit: a COCO bbox is in pixels, a label text is relative to the image (0 to 1)",
        )
    doubted = _contradictions(owner, boxes, np.concatenate([record.labels for record in records]))
    if doubted:
        yield Finding(
            "warning",
            f"{dataset.split} boxes with two different classes: {len(doubted):,}, the first in "
            f"{printable(records[doubted[0]].path)}",
            "keep the right class of each; the network is told both at once",
        )


def _bare(records: Sequence[ImageRecord], dataset: Dataset) -> Iterator[Finding]:
    """Most images without a box."""
    bare = sum(not len(record.boxes) for record in records)
    if bare > len(records) / 2:
        yield Finding(
            "serious" if bare == len(records) else "warning",
            f"{printable(dataset.source)}: {bare:,} of {len(records):,} {dataset.split} images have no box",
            "annotate more of them"
            if _is_coco(dataset)
            else "check that every image finds its labels: the same file name, .txt instead of .jpg, in the same "
            "folder or in labels/ for images/",
        )


def _is_coco(dataset: Dataset) -> bool:
    return dataset.source.endswith(".json")


def _outside(boxes: np.ndarray, limits: np.ndarray, dataset: Dataset) -> Iterator[Finding]:
    """Many boxes that leave their image: then the numbers are mostly of another kind than they are taken for."""
    before, after = (boxes[:, :2] < -1).any(axis=1), (boxes[:, 2:] > limits + 1).any(axis=1)
    outside = before | after
    if outside.mean() <= _MANY:
        return
    is_coco = _is_coco(dataset)
    sides = boxes[:, 2:] - boxes[:, :2]
    point = boxes[:, :2] if is_coco else boxes[:, :2] + sides / 2
    wanted = (
        "bbox = [x of the left, y of the top, width, height]" if is_coco else "class x-centre y-centre width height"
    )
    corners = (sides > point).all(axis=1) & (sides <= limits + 1).all(axis=1)
    if corners.mean() > 1 - _MANY:
        guess = "; the last two numbers look like the right and bottom edge instead of width and height"
    elif is_coco and after.sum() > 20 * before.sum():
        guess = "; the first two numbers may be the centre instead of the left top corner"
    elif not is_coco and before.sum() > 20 * after.sum():
        guess = "; the first two numbers may be the left top corner instead of the centre"
    else:
        guess = ""
    yield Finding(
        "serious" if guess else "warning",
        f"{printable(dataset.source)}: {outside.sum():,} of {len(boxes):,} {dataset.split} boxes "
        f"({outside.mean():.0%}) reach out of their image{guess}",
        f"convert the labels; wanted: {wanted}",
    )


def _contradictions(owner: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> list[int]:
    """The images, once for each box, where the very same box has another class than one before it."""
    seen: dict[tuple, int] = {}
    rows = zip(owner.tolist(), map(tuple, boxes.tolist()), labels.tolist(), strict=True)
    return [image for image, box, label in rows if seen.setdefault((image, box), label) != label]


def scan_findings(report: ScanReport) -> Iterator[Finding]:
    """Images that cannot be used."""
    if report.bad:
        some = [f"{printable(file.path)}: {file.reason}" for file in report.bad]
        stops = len(report.bad) > BAD_SHARE[report.dataset.split] * report.images
        yield Finding(
            "serious" if stops else "warning",
            f"{len(report.bad):,} of {report.images:,} {report.dataset.split} images cannot be used "
            f"({'the training would not start' if stops else 'they are left out'}): {_listed(some)}",
            "replace or remove these files and their labels",
        )


def text_findings(path: Path, split: Split) -> Iterator[Finding]:
    """All lines of label texts that cannot be read, by their kind; nothing for other forms of data sets."""
    readers = {".data": read_data_file, ".yaml": read_yaml, ".yml": read_yaml}
    if path.suffix not in readers:
        return
    listed = readers[path.suffix](path, split)
    classes = len(listed.names)
    files = [found for image in listed.images if (found := find_label(image))]
    bad: dict[Fault, list[str]] = {}
    for file in files:
        for kind, message in read_labels(file, classes)[1]:
            bad.setdefault(kind, []).append(message)
    for kind, fix in _TEXT_FIXES.items():
        if kind in bad:
            yield _bad_lines(f"{split} labels, bad lines", bad[kind], fix)
    if "class" in bad:
        what = f"{split} labels, lines with a class out of 0..{classes - 1}"
        yield _bad_lines(what, bad["class"], _number_anew(files, classes))


def _bad_lines(what: str, messages: Sequence[str], fix: str) -> Finding:
    return Finding("serious", f"{what}: {len(messages):,}; the first: {messages[0]}", fix)


def _number_anew(files: Sequence[Path], classes: int) -> str:
    """The advice for labels of which some are out of range."""
    labels = np.concatenate([read_labels(file, _ANY_LABEL)[0][:, 0] for file in files])
    if len(labels) and labels.min() == 1 and labels.max() == classes:
        return "labels count from 0, these count from 1: subtract 1 from the class in every line"
    if len(labels) and labels.max() >= classes:
        return f"add names up to class {labels.max():.0f}, or mend these lines"
    return "mend these lines"


# In the order in which they are told; classes out of range come last.
_TEXT_FIXES: dict[Fault, str] = {
    "columns": "one box a line: class x-centre y-centre width height; polygons must become boxes",
    "range": "divide x and width by the width of the image, y and height by its height",
    "number": "mend or remove these lines",
    "file": "mend or remove this file",
}


def _named(chosen: np.ndarray, names: Sequence[str]) -> str:
    return _listed([repr(names[int(label)]) for label in chosen.nonzero()[0]])


def _counted(chosen: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> str:
    return _listed([f"{names[int(label)]!r} {counts[label]:,}" for label in chosen.nonzero()[0]])


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
