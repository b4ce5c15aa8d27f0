"""utils.structures: letterboxes by hand and as inverses, targets on devices, lengths."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.structures import Detections, ImageRecord, Letterbox, Targets, class_counts

# 640x480 into 608x608: scale .95, 456 rows of image, 76 above and below
WIDE = Letterbox(0.95, 0.95, 0.0, 76.0, (608, 608), (480, 640))


def test_letterbox_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 640.0, 480.0], [100.0, 200.0, 300.0, 400.0]])
    # 100 * .95 = 95; 200 * .95 + 76 = 266; 300 * .95 = 285; 400 * .95 + 76 = 456
    expected = torch.tensor([[0.0, 76.0, 608.0, 532.0], [95.0, 266.0, 285.0, 456.0]])
    torch.testing.assert_close(WIDE.apply(boxes), expected)
    torch.testing.assert_close(WIDE.undo(expected), boxes)


def test_a_scale_for_each_axis() -> None:
    stretch = Letterbox(2.0, 0.5, 0.0, 0.0, (50, 200), (100, 100))
    torch.testing.assert_close(stretch.apply(torch.tensor([10.0, 20.0, 30.0, 40.0])), torch.tensor([20.0, 10, 60, 20]))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(0.01, 20), st.floats(0.01, 20), st.floats(-50, 500), st.floats(-50, 500)),
    st.lists(st.lists(st.floats(-100, 5000), min_size=4, max_size=4), max_size=4),
)
def test_undo_is_the_inverse_of_apply(place: tuple[float, ...], rows: list[list[float]]) -> None:
    letterbox = Letterbox(*place, size=(608, 608), original_size=(480, 640))
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    before = boxes.clone()
    torch.testing.assert_close(letterbox.undo(letterbox.apply(boxes)), boxes, rtol=1e-9, atol=1e-6)
    torch.testing.assert_close(letterbox.apply(letterbox.undo(boxes)), boxes, rtol=1e-9, atol=1e-6)
    assert torch.equal(boxes, before)


def test_any_leading_shape_and_the_dtype_of_the_boxes() -> None:
    boxes = torch.rand(2, 3, 5, 4, dtype=torch.float16)
    assert WIDE.apply(boxes).shape == boxes.shape
    assert WIDE.apply(boxes).dtype == WIDE.undo(boxes).dtype == torch.float16
    assert WIDE.apply(torch.zeros(0, 4)).shape == (0, 4)


def test_targets_move_together() -> None:
    targets = Targets(torch.tensor([0, 1]), torch.tensor([3, 4]), torch.rand(2, 4), torch.tensor([True, False]))
    moved = targets.to("meta")
    assert isinstance(moved, Targets)
    assert {tensor.device.type for tensor in moved} == {"meta"}
    assert all(torch.equal(a, b) for a, b in zip(targets, targets.to("cpu"), strict=True))


def test_detections_have_the_length_of_their_boxes() -> None:
    assert len(Detections(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, dtype=torch.int64))) == 3
    assert len(Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))) == 0


def test_values_are_not_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        WIDE.left = 3.0


def test_objects_of_each_class_are_counted_but_for_crowds() -> None:
    boxes, crowd = np.zeros((3, 4), np.float32), np.array([False, False, True])
    assert class_counts([ImageRecord(1, Path("1.jpg"), (9, 9), boxes, np.array([0, 1, 0]), crowd)], 3) == [1, 1, 0]
    assert class_counts([], 2) == [0, 0]
