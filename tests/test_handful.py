"""data.handful: every class is among the few images, and their truth lies where the network sees it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.dataset import Dataset
from data.handful import handful, one_batch
from utils.image import write_image
from utils.structures import ImageRecord


def labelled(*labels: list[int], crowd: int | None = None) -> Dataset:
    """An image for each list of labels; of number ``crowd`` all boxes are crowds."""
    records = tuple(
        ImageRecord(
            number,
            Path(f"{number}.png"),
            (20, 40),
            np.tile(np.float32([4, 2, 12, 18]), (len(own), 1)),
            np.array(own, np.int64),
            np.full(len(own), number == crowd),
        )
        for number, own in enumerate(labels)
    )
    return Dataset(records, ("a", "b", "c"), (1, 2, 3), "my.json")


def numbers(dataset: Dataset) -> list[int]:
    return [record.image_id for record in dataset.records]


def test_a_rare_class_comes_before_images_with_fewer_boxes() -> None:
    dataset = labelled([0], [0], [1], [0, 1, 2, 2], [0], [1, 1])
    assert numbers(handful(dataset, 1)) == [3]
    assert numbers(handful(dataset, 3)) == [0, 2, 3]
    assert numbers(handful(dataset, 5)) == [0, 1, 2, 3, 4]  # then those with few boxes
    assert numbers(handful(dataset, 99)) == [0, 1, 2, 3, 4, 5]


def test_images_with_nothing_to_find_are_passed_over() -> None:
    assert numbers(handful(labelled([], [0], [1], [], crowd=2), 4)) == [1]


@pytest.mark.parametrize(("letterbox", "box"), [(False, [6.4, 6.4, 19.2, 57.6]), (True, [6.4, 19.2, 19.2, 44.8])])
def test_the_truth_is_in_input_pixels(tmp_path: Path, letterbox: bool, box: list[float]) -> None:
    dataset = labelled([0], [2, 1], crowd=0)
    for record in dataset.records:
        write_image(tmp_path / record.path, np.full((20, 40, 3), 255, np.uint8))
    records = tuple(
        ImageRecord(one.image_id, tmp_path / one.path, one.size, one.boxes, one.labels, one.crowd)
        for one in dataset.records
    )
    images, targets = one_batch(Dataset(records, dataset.names, (1, 2, 3), "my.json"), (64, 64), letterbox=letterbox)
    assert images.shape == (2, 3, 64, 64) and images.dtype == torch.float32 and images.max().item() == pytest.approx(1)
    assert targets.image_index.tolist() == [0, 1, 1] and targets.labels.tolist() == [0, 2, 1]
    assert targets.crowd.tolist() == [True, False, False]
    torch.testing.assert_close(targets.boxes, torch.tensor([box] * 3))
