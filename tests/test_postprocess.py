"""From raw heads to detections in original pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.heads.yolo import YoloHead
from models.postprocess import postprocess
from utils.cfg.heads import Yolo
from utils.structures import Letterbox

SAME = Letterbox(1.0, 1.0, 0.0, 0.0, (32, 32), (32, 32))


def head(classes: int = 3, **keys) -> YoloHead:
    section = Yolo(classes=classes, num=1, anchors=((8.0, 8.0),), **keys)
    return YoloHead(section, section.anchors, section.mask, stride=(8, 8))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def raw_of(cells: dict[tuple[int, int], tuple[float, list[float]]], classes: int = 3) -> Tensor:
    """A 4x4 head that is silent but for ``cells`` (row, column): objectness and class probabilities."""
    raw = torch.zeros(1, 5 + classes, 4, 4)
    raw[:, 4:] = -30
    for (row, column), (objectness, probs) in cells.items():
        raw[0, 4, row, column] = logit(objectness)
        raw[0, 5:, row, column] = torch.tensor([logit(p) for p in probs])
    return raw


def test_one_box_may_carry_several_classes() -> None:
    raw = raw_of({(1, 2): (0.8, [0.9, 0.2, 0.5])})
    (found,) = postprocess([raw], [head()], [SAME])
    assert found.labels.tolist() == [0, 2]  # by falling score; .8 * .2 is below the threshold
    assert found.scores.tolist() == pytest.approx([0.72, 0.4])
    # Centre at (2.5, 1.5) cells of 8 pixels, 8 x 8.
    assert found.boxes.tolist() == [[16, 8, 24, 16]] * 2


def test_thresholds_are_strict() -> None:
    raw = torch.zeros(1, 6, 1, 1)  # objectness .5; the class is certain
    raw[:, 5] = 40
    assert len(postprocess([raw], [head(1)], [SAME], score_threshold=0.5)[0]) == 0
    assert len(postprocess([raw], [head(1)], [SAME], score_threshold=0.4999)[0]) == 1


def test_letterbox_is_undone() -> None:
    placed = Letterbox(0.5, 0.5, 0.0, 4.0, (32, 32), (48, 64))
    (found,) = postprocess([raw_of({(1, 2): (0.8, [0.9, 0.1, 0.1])})], [head()], [placed])
    assert found.boxes.tolist() == [[32, 8, 48, 24]]


def test_clip_and_max_detections() -> None:
    cells = {(0, 0): (0.9, [0.9, 0.1, 0.1]), (3, 3): (0.8, [0.9, 0.1, 0.1])}
    raw = raw_of(cells)
    raw[0, 2:4] = math.log(2)  # 16 x 16, over the border
    (found,) = postprocess([raw], [head()], [SAME])
    assert found.boxes.tolist() == [[-4, -4, 12, 12], [20, 20, 36, 36]]
    (found,) = postprocess([raw], [head()], [SAME], clip=True, max_detections=1)
    assert found.boxes.tolist() == [[0, 0, 12, 12]]


def test_suppression_is_per_class_and_across_heads() -> None:
    raws = [raw_of({(1, 1): (0.9, [0.9, 0.6, 0.1])}), raw_of({(1, 1): (0.8, [0.9, 0.1, 0.9])})]
    (found,) = postprocess(raws, [head(), head()], [SAME])
    assert sorted(zip(found.labels.tolist(), (round(s, 2) for s in found.scores.tolist()), strict=True)) == [
        (0, 0.81),
        (1, 0.54),
        (2, 0.72),
    ]
    (all_of_them,) = postprocess(raws, [head(), head()], [SAME], nms_threshold=1)
    assert len(all_of_them) == 4


def test_distances_are_measured_on_a_square_image() -> None:
    """Darknet suppresses in relative coordinates, so how an image was stretched changes nothing."""
    raw = raw_of({(1, 1): (0.9, [0.9, 0.1, 0.1]), (1, 2): (0.8, [0.9, 0.1, 0.1])})
    raw[0, 2:4] = math.log(3)  # 24 x 24, 8 apart: IoU .5
    diou = head(nms_kind="diounms", beta_nms=0.6)
    # d^2 / c^2 = 64 / (32^2 + 24^2) = .04, its .6th power .145; in the pixels of the flat image it would be .188.
    flat = Letterbox(1.0, 8.0, 0.0, 0.0, (32, 32), (4, 32))
    assert [len(postprocess([raw], [diou], [p], nms_threshold=0.36)[0]) for p in (SAME, flat)] == [2, 2]
    assert [len(postprocess([raw], [diou], [p], nms_threshold=0.35)[0]) for p in (SAME, flat)] == [1, 1]


def test_the_last_head_names_the_suppression() -> None:
    raw = raw_of({(1, 1): (0.9, [0.9, 0.1, 0.1]), (1, 2): (0.8, [0.9, 0.1, 0.1])})
    raw[0, 2:4] = math.log(3)
    empty = raw_of({})
    assert len(postprocess([raw, empty], [head(), head(nms_kind="greedynms")], [SAME])[0]) == 2
    assert len(postprocess([raw, empty], [head(nms_kind="greedynms"), head()], [SAME])[0]) == 1


def test_images_are_apart() -> None:
    one, other = raw_of({(1, 1): (0.9, [0.9, 0.1, 0.1])}), raw_of({(1, 1): (0.8, [0.9, 0.1, 0.1])})
    found = postprocess([torch.cat((one, raw_of({}), other))], [head()], [SAME] * 3)
    assert [len(f) for f in found] == [1, 0, 1]
    assert found[2].scores.tolist() == pytest.approx([0.72])


def test_boxes_that_overflow_are_dropped() -> None:
    raw = raw_of({(1, 1): (0.9, [0.9, 0.1, 0.1]), (2, 2): (0.8, [0.9, 0.1, 0.1])})
    raw[0, 2, 1, 1] = 100
    (found,) = postprocess([raw], [head()], [SAME])
    assert found.scores.tolist() == pytest.approx([0.72])


def test_counts_must_agree() -> None:
    raw = raw_of({})
    with pytest.raises(ValueError, match=r"raws \[\(1, 8, 4, 4\)\] for 2 heads and 1 letterboxes"):
        postprocess([raw], [head(), head()], [SAME])
    with pytest.raises(ValueError, match="for 1 heads and 2 letterboxes"):
        postprocess([raw], [head()], [SAME, SAME])
