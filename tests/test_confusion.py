"""Pairing of objects and detections by hand-made scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from evaluation.confusion import confusion_matrix, match_image, match_images
from utils.structures import Detections, ImageRecord

A, B, C = [0, 0, 40, 40], [100, 0, 140, 40], [0, 100, 40, 140]


def record(boxes, labels, crowd=None, image_id=1) -> ImageRecord:
    return ImageRecord(
        image_id,
        Path("1.jpg"),
        (200, 200),
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.zeros(len(labels), dtype=bool) if crowd is None else np.array(crowd),
    )


def found(*rows) -> Detections:
    """Each row (box, score, label)."""
    boxes = torch.tensor(np.array([row[0] for row in rows]), dtype=torch.float32).reshape(-1, 4)
    return Detections(boxes, torch.tensor([float(row[1]) for row in rows]), torch.tensor([int(row[2]) for row in rows]))


def test_found_missed_and_false():
    matches = match_image(record([A, B], [0, 1]), found((A, 0.9, 0), (C, 0.8, 1)))
    assert matches.matched.tolist() == [0, -1]
    assert matches.missed.tolist() == [False, True]
    assert matches.false.tolist() == [False, True]
    assert matches.mistakes == 2
    assert confusion_matrix([matches], 2).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_a_wrong_class_is_missed_and_false_and_off_the_diagonal():
    matches = match_image(record([A], [0]), found((A, 0.9, 1)))
    assert (matches.missed.sum(), matches.false.sum()) == (1, 1)
    assert confusion_matrix([matches], 2).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_a_stray_class_does_not_take_an_object_from_its_own():
    matches = match_image(record([A], [0]), found((A, 0.9, 1), (A, 0.6, 0)))
    assert matches.matched.tolist() == [-1, 0]
    assert confusion_matrix([matches], 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_second_box_on_an_object_is_false():
    matches = match_image(record([A], [0]), found((A, 0.9, 0), (A, 0.6, 0)))
    assert matches.correct.tolist() == [True, False]


def test_overlap_decides():
    """[0,0,40,40] and [0,0,40,19]: IoU 19/40; with 21 it is 21/40."""
    assert match_image(record([A], [0]), found(([0, 0, 40, 19], 0.9, 0))).matched.tolist() == [-1]
    assert match_image(record([A], [0]), found(([0, 0, 40, 21], 0.9, 0))).matched.tolist() == [0]


def test_low_scores_do_not_count():
    assert len(match_image(record([A], [0]), found((A, 0.2, 0))).labels) == 0


def test_inside_a_crowd_nothing_is_wrong():
    crowd = record([[0, 0, 100, 100]], [0], crowd=[True])
    matches = match_image(crowd, found(([10, 10, 30, 30], 0.9, 0), ([40, 10, 60, 30], 0.9, 1)))
    assert matches.excused.tolist() == [True, False]  # a crowd excuses its own class only
    assert matches.mistakes == 1
    assert confusion_matrix([matches], 2).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_nothing_on_either_side():
    assert match_image(record([], []), found()).mistakes == 0
    assert match_image(record([], []), found((A, 0.9, 0))).mistakes == 1
    assert match_image(record([A], [0]), found()).mistakes == 1


def test_every_object_and_every_detection_is_counted_once():
    rng = np.random.default_rng(0)
    truth, detections = [], {}
    for image_id in range(20):
        low = rng.integers(0, 60, (5, 2))
        boxes = np.concatenate([low, low + rng.integers(20, 60, (5, 2))], axis=1)
        truth.append(record(boxes, rng.integers(0, 3, 5), image_id=image_id))
        rows = [(box + rng.integers(-5, 5, 4), 0.9, rng.integers(0, 3)) for box in boxes[rng.random(5) < 0.7]]
        detections[image_id] = found(*rows)
    matrix = confusion_matrix(match_images(truth, detections), 3)
    assert matrix[:3].sum() == 100
    assert matrix[:, :3].sum() == sum(len(one) for one in detections.values())
    assert 0 < matrix.trace() < 100


def test_images_without_an_entry_have_no_detections():
    (matches,) = match_images([record([A], [0])], {})
    assert matches.mistakes == 1
