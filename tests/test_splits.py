"""data.splits: both sides of a training, what a scan leaves out of them, and what it prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.splits import find_data, load_splits
from tests.painted import write_classes, write_painted
from utils.errors import DatasetError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path)


def test_a_scan_leaves_out_what_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(150):  # one bad image of more than a hundred is accepted
        (folder / f"train/a/more{number}.png").write_bytes((folder / "train/a/0.png").read_bytes())
    (folder / "train/a/bad.png").write_bytes(b"no image")
    train_set, val_set = load_splits(str(folder), labelled=True, names=None, check=True, workers=1)
    assert (len(train_set), len(val_set)) == (155, 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}/train: 156 images of 2 classes"
    assert lines[1] == "1 images cannot be used and are left out:" and "bad.png: " in lines[2]
    (folder / "val/a/bad.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"val: 1 of 4 images cannot be used \(at most 0%\)"):
        load_splits(str(folder), labelled=True, names=None, check=True, workers=1)
    assert len(load_splits(str(folder), labelled=True, names=None, check=False, workers=1)[1]) == 4


def test_names_from_a_file_decide_the_order(folder: Path) -> None:
    (folder / "my.names").write_text("b\na\n")
    train_set, val_set = load_splits(str(folder), labelled=True, names=str(folder / "my.names"), check=False, workers=1)
    assert train_set.names == val_set.names == ("b", "a")


def test_boxes_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_painted(tmp_path)
    splits = load_splits(str(data), names=None, check=False, workers=1)
    assert capsys.readouterr().out == ""
    checked = load_splits(str(data), names=None, check=True, workers=1)
    assert [len(dataset) for dataset in checked] == [len(dataset) for dataset in splits]
    counts = [(dataset.source, len(dataset), sum(len(one.boxes) for one in dataset.records)) for dataset in splits]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{source}: {images} images, {boxes} boxes" for source, images, boxes in counts]


def test_data_given_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_data("somewhere") == "somewhere" and capsys.readouterr().out == ""
