"""data.fingerprint: a resumed run knows its images again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.fingerprint import check_same_data, fingerprint
from data.formats.dataset import Dataset
from utils.errors import InputError
from utils.structures import ImageRecord


def dataset(**changes: object) -> Dataset:
    boxes = np.float32([[1, 2, 3, 4]])
    record = ImageRecord(1, Path("folder/a.png"), (8, 9), boxes, np.int64([0]), np.zeros(1, bool))
    return Dataset((replace(record, **changes),), ("thing",), (1,), "somewhere")


def test_the_folder_may_move() -> None:
    assert fingerprint(dataset()) == fingerprint(dataset(path=Path("elsewhere/a.png")))
    assert fingerprint(dataset()).startswith("1 images (")


@pytest.mark.parametrize(
    "change",
    [
        {"path": Path("folder/b.png")},
        {"size": (9, 8)},
        {"labels": np.int64([1])},
        {"boxes": np.float32([[1, 2, 3, 5]])},
    ],
    ids=str,
)
def test_images_and_labels_may_not_change(change: dict[str, object]) -> None:
    then, now = fingerprint(dataset()), fingerprint(dataset(**change))
    with pytest.raises(InputError, match=r"run/last.pt: trained on .*, --data now gives .*; bring the images"):
        check_same_data(then, now, Path("run"))
    check_same_data(then, then, Path("run"))
