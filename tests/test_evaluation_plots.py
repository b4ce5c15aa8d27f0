"""The pictures are written, have the colours they promise and survive odd names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from evaluation.coco import evaluate
from evaluation.confusion import confusion_matrix, match_image, match_images
from evaluation.plots import (
    DETECTION_COLOUR,
    TRUTH_COLOUR,
    plot_confusion,
    plot_mistakes,
    plot_precision_recall,
    worst_images,
)
from utils.structures import Detections, ImageRecord

ODD_NAMES = ("cat", "$5 note_{", "_hidden", "犬")


def read(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def pixels_of(image: np.ndarray, colour: str) -> int:
    """How many pixels are close to a colour #rrggbb."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(image.astype(int) - wanted).max(axis=2) < 12).sum())


def scene(num_classes: int, images: int = 6) -> tuple[list[ImageRecord], dict[int, Detections]]:
    """Each image holds one object of each of four classes in a row; image i misses i of them."""
    truth, detections = [], {}
    for image_id in range(images):
        labels = (np.arange(4) + image_id) % num_classes
        left = np.arange(4) * 60.0
        boxes = np.stack([left, left * 0 + 10, left + 50, left * 0 + 60], axis=1).astype(np.float32)
        truth.append(ImageRecord(image_id, Path(f"{image_id}.jpg"), (120, 260), boxes, labels, np.zeros(4, dtype=bool)))
        seen = max(0, 4 - image_id)
        detections[image_id] = Detections(
            torch.from_numpy(boxes[:seen]), torch.full((seen,), 0.9), torch.from_numpy(labels[:seen])
        )
    return truth, detections


@pytest.mark.parametrize("num_classes", [1, 4, 30])
def test_precision_recall(tmp_path, num_classes):
    names = [*ODD_NAMES, *(f"class {i}" for i in range(4, 80))][:num_classes]
    truth, detections = scene(num_classes)
    plot_precision_recall(evaluate(truth, detections, names), tmp_path / "curves.png")
    image = read(tmp_path / "curves.png")
    assert pixels_of(image, "#000000") > 500  # the bold mean


def test_precision_recall_without_anything_measured(tmp_path):
    record = scene(1)[0][0]
    empty = ImageRecord(1, record.path, record.size, record.boxes[:0], record.labels[:0], record.crowd[:0])
    plot_precision_recall(evaluate([empty], {}, ["cat"]), tmp_path / "curves.png")
    assert read(tmp_path / "curves.png").shape[0] > 300


def test_confusion_grows_with_the_classes_that_occur(tmp_path):
    sides = []
    for count in (4, 80):
        names = [*ODD_NAMES, *(f"class {i}" for i in range(4, count))]
        matrix = np.zeros((81, 81), dtype=np.int64)[: count + 1, : count + 1]
        np.fill_diagonal(matrix, 5)
        plot_confusion(matrix, names, tmp_path / "confusion.png")
        sides.append(read(tmp_path / "confusion.png").shape[0])
    names = [f"class {i}" for i in range(80)]
    sparse = np.zeros((81, 81), dtype=np.int64)
    sparse[:4, :4] = 5
    plot_confusion(sparse, names, tmp_path / "confusion.png")
    sides.append(read(tmp_path / "confusion.png").shape[0])
    assert sides[1] > 1.5 * sides[0]
    assert sides[2] < 1.3 * sides[0]  # 76 absent classes take no room


def test_confusion_of_nothing(tmp_path):
    plot_confusion(confusion_matrix([], 3), ["a", "b", "c"], tmp_path / "confusion.png")
    assert read(tmp_path / "confusion.png").shape[0] > 100


def test_mistakes_are_painted_in_their_colours(tmp_path):
    grey = np.full((120, 260, 3), 128, dtype=np.uint8)
    truth, detections = scene(4)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    false = Detections(torch.tensor([[5.0, 70, 100, 110]]), torch.tensor([0.9]), torch.tensor([1]))
    counts = {}
    for name, record, one in (
        ("found", truth[0], detections[0]),
        ("missed", truth[0], nothing),
        (
            "false",
            ImageRecord(9, Path("9.jpg"), (120, 260), truth[0].boxes[:0], truth[0].labels[:0], truth[0].crowd[:0]),
            false,
        ),
    ):
        plot_mistakes(match_image(record, one), grey, ODD_NAMES, tmp_path / f"{name}.png")
        image = read(tmp_path / f"{name}.png")
        counts[name] = (pixels_of(image, TRUTH_COLOUR), pixels_of(image, DETECTION_COLOUR))
    assert counts["missed"][0] > 2 * counts["found"][0]  # thick against thin
    assert counts["false"][1] > 3 * counts["missed"][1]  # the legend alone has a little of each
    assert counts["missed"][0] > 3 * counts["false"][0]


def test_worst_images_come_first_and_perfect_ones_never():
    matches = match_images(*scene(4))
    worst = worst_images(matches, 10)
    assert [one.mistakes for one in worst] == [4, 4, 3, 2, 1]
    assert [one.record.image_id for one in worst] == [4, 5, 3, 2, 1]
    assert len(worst_images(matches, 2)) == 2
