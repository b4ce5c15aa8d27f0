"""training.checks.duplicates: copies are found though stored otherwise, and other pictures are left in peace."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.formats.dataset import load_dataset
from training.checks.duplicates import (
    ALIKE,
    Picture,
    Twins,
    changes,
    pictures,
    repeat_findings,
    repeated,
    same_files,
    twin_findings,
    twins,
)
from utils.image import write_image
from utils.structures import ImageRecord


def scene(seed: int) -> np.ndarray:
    """A soft landscape uint8 (120, 160, 3), another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)


def records(*paths: Path) -> list[ImageRecord]:
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    return [ImageRecord(number, path, (120, 160), *none) for number, path in enumerate(paths)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six different pictures for training."""
    for seed in range(6):
        (tmp_path / "train").mkdir(exist_ok=True)
        write_image(tmp_path / "train" / f"{seed}.png", scene(seed))
    (tmp_path / "val").mkdir()
    return tmp_path


def compared(folder: Path) -> list[Twins]:
    train, val = (pictures(records(*sorted((folder / split).iterdir()))) for split in ("train", "val"))
    return twins(train, val)


def test_different_pictures_are_no_twins(folder: Path) -> None:
    for seed in range(6, 12):
        write_image(folder / "val" / f"{seed}.png", scene(seed))
    assert compared(folder) == []
    assert not list(twin_findings([], 6)) and not list(repeat_findings([]))


def test_the_same_bytes(folder: Path) -> None:
    copy = shutil.copy(folder / "train" / "3.png", folder / "val" / "other.png")
    (pair,) = compared(folder)
    assert pair == Twins(Path(copy), folder / "train" / "3.png", True)
    (found,) = twin_findings([pair], 20)
    assert found.serious and found.what.startswith("1 of 20 validation images are training images too")
    assert found.what.endswith("rewards overfitting: val/other.png = train/3.png")
    assert found.fix == "take them out of the training or of the validation images"


def stored_anew(image: np.ndarray, how: str) -> np.ndarray:
    match how:
        case "jpeg":
            return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)
        case "smaller":
            return cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA)
        case "brighter":
            return np.clip(image * 1.25, 0, 255).astype(np.uint8)
        case _:
            return image[1:-1, 1:-1]


@pytest.mark.parametrize("how", ["jpeg", "smaller", "brighter", "cut"])
def test_the_same_picture_stored_otherwise(folder: Path, how: str) -> None:
    write_image(folder / "val" / "4.png", stored_anew(scene(4), how))
    (pair,) = compared(folder)
    assert pair == Twins(folder / "val" / "4.png", folder / "train" / "4.png", False)
    (found,) = twin_findings([pair], 20)
    assert not found.serious and found.what.startswith("1 of 20 validation images look like a training image")
    assert found.fix.endswith("frames of one film belong on one side")


def test_pictures_of_one_colour_are_like_no_other(folder: Path) -> None:
    assert not changes(np.full((50, 50, 3), 90, np.uint8)).any()
    for split, grey in (("train", 90), ("val", 120)):
        write_image(folder / split / "plain.png", np.full((120, 160, 3), grey, np.uint8))
    assert compared(folder) == []
    copy = shutil.copy(folder / "train" / "plain.png", folder / "val" / "copy.png")  # but for the very same file
    assert compared(folder) == [Twins(Path(copy), folder / "train" / "plain.png", True)]


def test_likeness_is_a_cosine() -> None:
    first, second = changes(scene(0)), changes(255 - scene(0))
    assert first.dtype == np.float32 and first.shape == (512,)
    assert first @ first == pytest.approx(1, abs=1e-5) and first @ second == pytest.approx(-1, abs=1e-2)
    assert max(float(changes(scene(a)) @ changes(scene(b))) for a in range(12) for b in range(a)) < ALIKE


def test_more_than_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.checks.duplicates._AT_ONCE", 3)
    found = [Picture(Path(str(seed)), bytes([seed]), changes(scene(seed))) for seed in range(8)]
    assert [int(pair.val.name) for pair in twins(found[::2], found)] == [0, 2, 4, 6]
    assert twins([], found) == twins(found, []) == []


def test_training_images_that_come_twice(folder: Path) -> None:
    for name in ("x.png", "y.png"):
        shutil.copy(folder / "train" / "1.png", folder / "train" / name)
    shutil.copy(folder / "train" / "2.png", folder / "train" / "z.png")
    groups = repeated(pictures(records(*sorted((folder / "train").iterdir()))))
    assert [[path.name for path in group] for group in groups] == [["1.png", "x.png", "y.png"], ["2.png", "z.png"]]
    (found,) = repeat_findings(groups)
    assert not found.serious and found.what == (
        "copies of other training images: 3, train/1.png = train/x.png = train/y.png, train/2.png = train/z.png"
    )


def test_files_that_are_on_both_sides_are_known_without_opening_them() -> None:
    train, val = records(Path("a.jpg"), Path("b.jpg")), records(Path("b.jpg"), Path("c.jpg"))
    assert same_files(train, val) == [Twins(Path("b.jpg"), Path("b.jpg"), True)]


def test_images_that_do_not_decode_are_left_to_the_scan(folder: Path) -> None:
    (folder / "train" / "0.png").write_bytes(b"text")
    assert len(pictures(records(folder / "train" / "0.png", folder / "train" / "1.png", folder / "none.png"))) == 1


def test_blood_cells_have_one_pair_of_twins(shared_data: Path) -> None:
    # Two exposures of one field under the microscope, one of them on each side.
    train, val = (load_dataset(shared_data / "bccd", split).records for split in ("train", "val"))
    near = [record for record in (*train, *val) if record.path.stem[-5:] < "00060"]
    mine, theirs = ([one for one in near if one.path.parent.name == split] for split in ("train", "val"))
    found = [(pair.val.stem, pair.train.stem) for pair in twins(pictures(mine), pictures(theirs))]
    assert found == [("BloodImage_00037", "BloodImage_00038")]
