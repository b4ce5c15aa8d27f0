"""data.formats.class_folders: class folders and Darknet's lists give images with one label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.formats.class_folders import load_labelled
from utils.errors import DatasetError, InputError
from utils.image import write_image


def write_images(root: Path, *places: str) -> None:
    for number, place in enumerate(places):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((6, 8 + number, 3), 30 * number, np.uint8))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write_images(tmp_path, "train/dog/1.png", "train/cat/b.png", "train/cat/a.png", "val/dog/x.png", "val/cat/y.png")
    return tmp_path


def test_class_folders(folders: Path) -> None:
    dataset = load_labelled(folders, "train")
    assert dataset.names == ("cat", "dog")
    assert [(record.path.name, *record.labels) for record in dataset.records] == [
        ("a.png", 0),
        ("b.png", 0),
        ("1.png", 1),
    ]
    assert dataset.records[0].size == (6, 10)
    assert dataset.records[0].boxes.tolist() == [[0, 0, 10, 6]]
    assert load_labelled(folders, "val").records[1].path == folders / "val/dog/x.png"


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_the_validation_images(folders: Path, name: str) -> None:
    (folders / "val").rename(folders / name)
    assert len(load_labelled(folders, "val")) == 2


def test_classes_keep_the_order_of_the_network(folders: Path) -> None:
    dataset = load_labelled(folders, "val", names=["dog", "cow", "cat"])
    assert {record.path.parent.name: int(record.labels[0]) for record in dataset.records} == {"dog": 0, "cat": 2}
    assert dataset.notes == ("no image of 1 classes: cow",)


def test_classes_are_those_of_the_training_images(folders: Path) -> None:
    (folders / "val/cat/y.png").unlink()
    (folders / "val/cat").rmdir()
    assert load_labelled(folders, "val").names == ("cat", "dog")
    (folders / "train").rename(folders / "elsewhere")
    assert load_labelled(folders, "val").names == ("dog",)


def test_hidden_folders_are_no_classes(folders: Path) -> None:
    (folders / "train/.thumbs").mkdir()
    assert load_labelled(folders, "train").names == ("cat", "dog")


def test_an_unreadable_image_is_left_for_the_scan(folders: Path) -> None:
    (folders / "train/cat/a.png").write_bytes(b"no image")
    assert load_labelled(folders, "train").records[0].size == (0, 0)


def write_list(root: Path, *extra: str, labels: str = "cat\ndog\n") -> Path:
    write_images(root, "pictures/1_cat.png", "pictures/2_dog.png", "pictures/3_cat.png")
    (root / "train.list").write_text("pictures/2_dog.png\npictures/1_cat.png\n")
    (root / "valid.list").write_text("pictures/3_cat.png\n")
    (root / "labels.txt").write_text(labels)
    lines = ["train=train.list", "valid=valid.list", "labels=labels.txt", *extra]
    (root / "my.data").write_text("\n".join(lines) + "\n")
    return root / "my.data"


def test_darknets_list(tmp_path: Path) -> None:
    file = write_list(tmp_path, "classes=2", "top=5")
    train, val = load_labelled(file, "train"), load_labelled(file, "val")
    assert train.names == ("cat", "dog") and train.source == str(file)
    assert [int(record.labels[0]) for record in train.records] == [1, 0]
    assert [int(record.labels[0]) for record in val.records] == [0]


def test_names_may_differ_from_labels(tmp_path: Path) -> None:
    (tmp_path / "long.names").write_text("domestic cat\ndomestic dog\n")
    file = write_list(tmp_path, "names=long.names")
    assert load_labelled(file, "train").names == ("domestic cat", "domestic dog")
    assert load_labelled(file, "train", names=["Katze", "Hund"]).names == ("Katze", "Hund")
    with pytest.raises(InputError, match=r"my\.data: 1 names \(wanted 2"):
        load_labelled(file, "train", names=["Katze"])


def test_a_label_inside_a_longer_one_does_not_count(tmp_path: Path) -> None:
    """car is in every path of a cart; Darknet would take both."""
    file = write_list(tmp_path, labels="at\ncat\ndog\n")
    assert [int(record.labels[0]) for record in load_labelled(file, "train").records] == [2, 1]


def test_folders_above_the_data_file_do_not_count(tmp_path: Path) -> None:
    file = write_list(tmp_path / "my_dogs")
    assert [int(record.labels[0]) for record in load_labelled(file, "train").records] == [1, 0]


@pytest.mark.parametrize(
    ("labels", "came"),
    [("bird\nfish\n", "pictures/2_dog.png holds no label"), ("dog\npicture\n", "holds dog and picture")],
)
def test_a_path_has_exactly_one_label(tmp_path: Path, labels: str, came: str) -> None:
    with pytest.raises(DatasetError, match=rf"my\.data: the path .*{came} \(wanted exactly one label in it\)"):
        load_labelled(write_list(tmp_path, labels=labels), "train")


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: no folder and no \.data file \(wanted a folder with"):
        load_labelled(tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match=r"no images for train in it \(wanted train/CLASS/\)"):
        load_labelled(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match=r"train: no folders in it \(wanted one for each class\)"):
        load_labelled(tmp_path, "train")
    (tmp_path / "train/cat").mkdir()
    with pytest.raises(DatasetError, match=r"train: no images in its class folders"):
        load_labelled(tmp_path, "train")


def test_an_unknown_class_is_named(folders: Path) -> None:
    write_images(folders, "val/cow/1.png")
    with pytest.raises(DatasetError, match=r"val: cow are none of the 2 classes \(cat, dog\); rename or remove"):
        load_labelled(folders, "val")


@pytest.mark.parametrize(
    ("line", "match"), [("labels", r"my\.data: no 'labels' \(wanted train"), ("train", r"my\.data: no 'train'")]
)
def test_a_data_file_without_a_line(tmp_path: Path, line: str, match: str) -> None:
    file = write_list(tmp_path)
    file.write_text("".join(row for row in file.read_text().splitlines(True) if not row.startswith(line)))
    with pytest.raises(DatasetError, match=match):
        load_labelled(file, "train")
