"""training.checks.labels: each fault planted in a small data set is named with its remedy; clean data says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.formats.dataset import Dataset, Split, load_dataset
from data.scan import BadFile, BoxCounts, ScanReport
from training.checks.findings import Finding
from training.checks.labels import (
    balance_findings,
    box_findings,
    class_findings,
    class_lines,
    name_findings,
    scan_findings,
    text_findings,
)
from utils.errors import DatasetError
from utils.image import write_image
from utils.structures import ImageRecord

NAMES = ("cat", "dog", "cow")


def record(boxes: object, labels: Sequence[int], number: int = 0, size: tuple[int, int] = (100, 200)) -> ImageRecord:
    """An image of 200x100 pixels that is not looked at."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool)
    return ImageRecord(number, Path(f"{number}.jpg"), size, boxes, np.array(labels, np.int64), crowd)


def labelled(counts: Sequence[int], names: Sequence[str] = NAMES, split: Split = "train") -> Dataset:
    """One image with so many objects of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(labels))[:, None] * 0.1 + np.array([10, 10, 40, 40])
    return Dataset((record(places, labels),), tuple(names), (1, 2, 3), "my.json", split)


def boxed(boxes: Iterable[Sequence[float]], source: str = "my.json") -> Dataset:
    """An image for each box."""
    records = tuple(record([box], [0], number) for number, box in enumerate(boxes))
    return Dataset(records, ("cat",), (1,), source)


def only(findings: Iterable[Finding]) -> Finding:
    (found,) = findings
    return found


def test_names_that_are_blank_or_doubled() -> None:
    blank = only(name_findings(["cat", " ", "dog", ""], "my.yaml"))
    assert blank == Finding("serious", "my.yaml: class 1, 3 has a blank name", "give every class a name")
    same = only(name_findings(["cat", "dog", "cat"], "my.yaml"))
    assert same.serious and same.what == "my.yaml: names that come more than once: 'cat' = 'cat'"
    alike = only(name_findings(["Cat", "dog", "cat "], "my.yaml"))
    assert not alike.serious and alike.what.endswith("'Cat' = 'cat '") and "one number if they are" in alike.fix
    assert not list(name_findings(NAMES, "my.yaml"))


def test_classes_that_are_missing_somewhere() -> None:
    assert not list(class_findings(labelled([30, 20, 10]), labelled([3, 2, 1])))
    unused = only(class_findings(labelled([30, 20, 0]), labelled([3, 2, 0])))
    assert not unused.serious and unused.what == "of 3 classes these have no boxes at all: 'cow'"
    assert unused.fix == "remove the names that no label uses, and number the labels anew"
    first = only(class_findings(labelled([0, 20, 9]), labelled([0, 2, 1])))
    assert first.fix.startswith("labels count from 0: is every one of yours too large by one?")
    untaught = only(class_findings(labelled([30, 20, 0]), labelled([3, 2, 5])))
    assert untaught.serious and untaught.what.startswith("classes with validation boxes only: 'cow' 5; nothing can")
    unmeasured = only(class_findings(labelled([30, 20, 9]), labelled([3, 2, 0]), things="images"))
    assert not unmeasured.serious and unmeasured.what == "classes with training images only, not measured: 'cow'"


def test_splits_that_show_other_things() -> None:
    found = only(class_findings(labelled([80, 15, 5]), labelled([15, 80, 5])))
    assert not found.serious and "of 'cat' are 80% of the boxes here and 15% there" in found.what
    assert "(in all 65% of them differ)" in found.what and "the same order of names" in found.fix
    assert not list(class_findings(labelled([80, 15, 5]), labelled([60, 35, 5])))
    assert not list(class_findings(labelled([80, 15, 4]), labelled([15, 80, 5])))  # too few to tell


def test_rare_classes_are_given_weights_unless_they_have_them() -> None:
    found = only(balance_findings(labelled([5000, 99, 19])))
    assert found.what == "classes with few training boxes: 'dog' 99, 'cow' 19 (the commonest 5,000)"
    assert found.fix.endswith("--class-weights auto")
    assert only(balance_findings(labelled([5000, 99, 19]), weighted=True)).fix == "get more pictures of them"
    assert not list(balance_findings(labelled([5000, 100, 0])))  # a class without any is told otherwise


def test_the_table_of_classes() -> None:
    lines = list(class_lines(labelled([4, 0, 8]), labelled([1, 0, 2])))
    assert lines[0].split() == ["class", "boxes", "train", "val"]
    assert [line.split() for line in lines[1:]] == [
        ["cow", "8", "2", 40 * "#"],
        ["cat", "4", "1", 20 * "#"],
        ["dog", "0", "0"],
    ]
    many = labelled([*range(1, 26)], [f"c{label}" for label in range(25)])
    lines = list(class_lines(many, many))
    assert len(lines) == 22 and lines[11] == "... 5 more classes"
    assert lines[10].startswith("c15 ") and lines[12].startswith("c9 ")


INSIDE = [(20 + k, 10, 60 + k, 50) for k in range(20)]


@pytest.mark.parametrize("source", ["my.json", "my.yaml"])
def test_boxes_in_their_images_are_fine(source: str) -> None:
    edge = [(-0.5, 0, 200.5, 100)]  # rounding
    assert not list(box_findings(boxed(INSIDE + edge, source)))
    one = [(150, 10, 240, 50)]  # of 21 less than 5 %
    assert not list(box_findings(boxed(INSIDE + one, source)))


def as_read(corners: Sequence[float], source: str) -> tuple[float, ...]:
    """What is read where the corners stand in place of corner and size (COCO), or of centre and size (texts)."""
    a, b, c, d = corners
    return (a, b, a + c, b + d) if source.endswith("json") else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)


@pytest.mark.parametrize(
    ("source", "wanted"), [("my.json", "bbox = [x of the left,"), ("my.data", "class x-centre y-centre width height")]
)
def test_corners_in_place_of_sizes(source: str, wanted: str) -> None:
    boxes = [as_read((120 + k, 60, 175 + k, 95), source) for k in range(20)]
    found = only(box_findings(boxed(boxes, source)))
    assert found.serious and f"{source}: 20 of 20 train boxes (100%) reach out of their image" in found.what
    assert found.what.endswith("; the last two numbers look like the right and bottom edge instead of width and height")
    assert wanted in found.fix


def test_centres_and_left_top_corners_taken_for_each_other() -> None:
    centred = [(x + w / 2, 30, x + w * 1.5, 50) for x in range(90, 110) for w in (70,)]
    found = only(box_findings(boxed(centred)))
    assert found.serious and "the first two numbers may be the centre instead of the left top corner" in found.what
    cornered = [(x - 35, 30, x + 35, 50) for x in range(0, 20)]
    found = only(box_findings(boxed(cornered, "my.yaml")))
    assert found.serious and "the first two numbers may be the left top corner instead of the centre" in found.what
    either = [*centred[-10:], *cornered[:10], *INSIDE]
    found = only(box_findings(boxed(either)))
    assert not found.serious and found.what.endswith("20 of 40 train boxes (50%) reach out of their image")


def test_boxes_under_one_pixel() -> None:
    relative = [(0.1, 0.1, 0.4, 0.5)] * 20
    found = only(box_findings(boxed(relative)))
    assert found.serious and "20 of 20 train boxes have a side under one pixel and are left out" in found.what
    assert "a COCO bbox is in pixels" in found.fix
    assert not only(box_findings(boxed([*INSIDE, *relative[:3]]))).serious
    assert not list(box_findings(boxed([*INSIDE, *relative[:1]])))


def test_images_without_boxes() -> None:
    bare = record([], [])
    dataset = replace(boxed(INSIDE[:2], "my.yaml"), records=(bare, bare, bare, *boxed(INSIDE[:2]).records))
    found = only(box_findings(dataset))
    assert found.what == "my.yaml: 3 of 5 train images have no box" and not found.serious
    assert ".txt instead of .jpg" in found.fix
    none = only(box_findings(replace(dataset, records=(bare, bare), source="my.json")))
    assert none.serious and none.fix == "annotate more of them"
    assert not list(box_findings(replace(dataset, records=dataset.records[2:])))
    unreadable = record([[0, 0, 0, 0]], [0], size=(0, 0))  # for the scan to tell
    assert not list(box_findings(replace(dataset, records=(unreadable,))))


def test_one_box_with_two_classes() -> None:
    contrary = record([[1, 1, 9, 9], [1, 1, 9, 9], [2, 2, 9, 9]], [0, 1, 1], 7)
    twice = record([[1, 1, 9, 9], [1, 1, 9, 9]], [1, 1], 8)
    found = only(box_findings(Dataset((twice, contrary), NAMES, (1, 2, 3), "my.json")))
    assert found.what == "train boxes with two different classes: 1, the first in 7.jpg" and not found.serious
    assert not list(box_findings(Dataset((twice,), NAMES, (1, 2, 3), "my.json")))


@pytest.mark.parametrize(
    ("split", "bad", "serious"), [("train", 1, False), ("train", 2, True), ("val", 1, True), ("val", 0, None)]
)
def test_images_that_cannot_be_used(split: Split, bad: int, serious: bool | None) -> None:
    files = tuple(BadFile(Path(f"{k}.jpg"), "not an image") for k in range(bad))
    findings = list(scan_findings(ScanReport(labelled([1], ["a"], split), files, BoxCounts(), 150, 0)))
    assert [finding.serious for finding in findings] == [serious] * bool(bad)
    for found in findings:
        outcome = "the training would not start" if serious else "they are left out"
        assert f"{bad} of 150 {split} images cannot be used ({outcome}): 0.jpg: not an image" in found.what


def test_of_many_bad_images_three_are_named() -> None:
    files = tuple(BadFile(Path(f"{k}.jpg"), "empty") for k in range(1004))
    found = only(scan_findings(ScanReport(labelled([1]), files, BoxCounts(), 2000, 0)))
    assert found.what.endswith("0.jpg: empty, 1.jpg: empty, 2.jpg: empty and 1,001 more")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A data set of two images with label texts; returns its yaml."""
    for name in ("a", "b"):
        for split in ("train", "val"):
            (tmp_path / split).mkdir(exist_ok=True)
            write_image(tmp_path / split / f"{name}.png", np.zeros((20, 40, 3), np.uint8))
            (tmp_path / split / f"{name}.txt").write_text("0 .5 .5 .2 .2\n2 .5 .5 .1 .1\n")
    (tmp_path / "my.yaml").write_text("path: .\ntrain: train\nval: val\nnames: [cat, dog, cow]\n")
    return tmp_path / "my.yaml"


@pytest.mark.parametrize(
    ("line", "what", "fix"),
    [
        ("0 .5 .5 .1", "train labels, bad lines: 1; the first: ", "one box a line"),
        ("0 .1 .1 .9 .1 .9 .9", "7 columns (wanted 5", "polygons must become boxes"),
        ("0 120 40 30 20", "x=120: 0..1 (relative to the image; are these pixels?)", "divide x and width by the width"),
        ("cat .5 .5 .1 .1", "class=cat: not a number", "mend or remove these lines"),
        ("0 .5 nan .1 .1", "y=nan: not finite", "mend or remove these lines"),
        ("5 .5 .5 .1 .1", "train labels, lines with a class out of 0..2: 1", "add names up to class 5, or mend these"),
        ("-1 .5 .5 .1 .1", "class=-1: 0..2", "mend these lines"),
    ],
)
def test_lines_that_cannot_be_read(texts: Path, line: str, what: str, fix: str) -> None:
    label = texts.parent / "train" / "b.txt"
    label.write_text(f"0 .5 .5 .2 .2\n{line}\n")
    with pytest.raises(DatasetError, match=r"b\.txt:2"):
        load_dataset(texts, "train")
    found = only(text_findings(texts, "train"))
    assert found.serious and what in found.what and f"{label}:2" in found.what
    assert fix in found.fix
    assert not list(text_findings(texts, "val"))


def test_every_kind_of_bad_line_is_told_once(texts: Path) -> None:
    (texts.parent / "train" / "a.txt").write_text("0 .5 .5 .1\n9 .5 .5 .1 .1\n0 120 40 30 20\n0 .5 .5 .1\n")
    (texts.parent / "train" / "b.txt").write_text("8 .5 .5 .1 .1\n")
    counts = [found.what.split("; ")[0] for found in text_findings(texts, "train")]
    assert counts == [
        "train labels, bad lines: 2",
        "train labels, bad lines: 1",
        "train labels, lines with a class out of 0..2: 2",
    ]


def test_labels_that_count_from_one(texts: Path) -> None:
    for name in ("a", "b"):
        (texts.parent / "train" / f"{name}.txt").write_text("1 .5 .5 .1 .1\n2 .5 .5 .1 .1\n3 .5 .5 .1 .1\n")
    found = only(text_findings(texts, "train"))
    assert found.fix == "labels count from 0, these count from 1: subtract 1 from the class in every line"


def test_only_texts_have_lines(tmp_path: Path) -> None:
    assert not list(text_findings(tmp_path / "my.json", "train"))
