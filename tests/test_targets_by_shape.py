"""The assignment of Scaled-YOLOv4 by hand arithmetic, and against a slow loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.heads.yolo import YoloHead
from models.targets.by_shape import assign_by_shape
from models.targets.darknet import learnable_truth
from tests.reference import scaled_loss as slow
from utils.cfg.heads import Yolo
from utils.structures import Targets

SIZE = (64, 128)  # H, W; fractions of it are exact in binary
GRID = (8, 16)
ANCHORS = ((4, 4), (8, 16), (40, 40))


def head_with(**keys: object) -> YoloHead:
    section = Yolo(classes=3, num=3, anchors=ANCHORS, **keys)
    return YoloHead(section, section.anchors, section.mask, stride=(8, 8))


def one_box(x: float, y: float, width: float, height: float) -> Targets:
    box = torch.tensor([[x - width / 2, y - height / 2, x + width / 2, y + height / 2]])
    return Targets(torch.tensor([0]), torch.tensor([1]), box, torch.tensor([False]))


def learners(head: YoloHead, targets: Targets, images: int = 1) -> list[tuple[int, ...]]:
    """(truth, image, anchor, row, column), sorted."""
    matches = assign_by_shape(head, learnable_truth(targets, images, SIZE, 3), GRID, SIZE)
    return sorted(zip(matches.truth.tolist(), *(tensor.tolist() for tensor in matches.cells), strict=True))


def test_three_cells_of_every_anchor_within_a_factor_of_four() -> None:
    # 12 x 12 at (50, 27): 50 / 8 = 6.25, 27 / 8 = 3.375: cell (row 3, column 6), nearer to column 5 and to row 2.
    # 12 / 4 = 3 and 12 / 8 = 1.5, 16 / 12 = 1.33 fit; 40 / 12 = 3.33 fits too
    cells = [(2, 6), (3, 5), (3, 6)]
    expected = [(0, 0, anchor, *cell) for anchor in range(3) for cell in cells]
    assert learners(head_with(scale_x_y=2.0), one_box(50, 27, 12, 12)) == expected
    # 12 x 18: 18 / 4 = 4.5 is too far from the first anchor
    assert {found[2] for found in learners(head_with(scale_x_y=2.0), one_box(50, 27, 12, 18))} == {1, 2}
    # 16 / 4 is four exactly and too much; 40 / 16 = 2.5
    assert {found[2] for found in learners(head_with(scale_x_y=2.0), one_box(50, 27, 16, 16))} == {1, 2}
    assert learners(head_with(scale_x_y=2.0), one_box(50, 27, 1, 1)) == []


@pytest.mark.parametrize(
    ("x", "y", "cells"),
    [
        (54, 30, [(3, 6), (3, 7), (4, 6)]),  # 6.75, 3.75: right and below
        (52, 28, [(3, 6)]),  # 6.5, 3.5: the very middle has no nearer side
        (48, 27, [(2, 6), (3, 5), (3, 6)]),  # 6.0, 3.375: on the border to column 5
        (2, 2, [(0, 0)]),  # no cells beyond the corner
        (127, 63, [(7, 15)]),
        (128, 64, [(7, 15)]),  # on the edge: the outermost cell
    ],
)
def test_neighbours(x: float, y: float, cells: list[tuple[int, int]]) -> None:
    assert [found[3:] for found in learners(head_with(scale_x_y=2.0, mask=(1,)), one_box(x, y, 8, 16))] == cells


@pytest.mark.parametrize(
    ("scale_x_y", "x", "columns"),
    [
        (1.0, 48.0, [6]),  # a sigmoid never leaves its cell, and only in the limit reaches its border
        (1.05, 48.0, [5, 6]),  # 6.0 is 1.0 from cell 5, which reaches 1.025
        (1.05, 48.16, [5, 6]),  # 6.02 is 1.02 from it
        (1.05, 48.24, [6]),  # 6.03 is 1.03 from it: it could never learn that
        (1.05, 55.84, [6, 7]),  # 6.98 is -.02 from cell 7
        (1.2, 48.72, [5, 6]),  # 6.09 of 1.1
        (1.2, 48.88, [6]),  # 6.11
        (3.0, 48.88, [5, 6]),  # reaches a whole cell: still the nearer neighbour only
    ],
)
def test_cells_out_of_reach_learn_nothing(scale_x_y: float, x: float, columns: list[int]) -> None:
    found = learners(head_with(scale_x_y=scale_x_y, mask=(1,)), one_box(x, 28, 8, 16))
    assert [column for *_, row, column in found if row == 3] == columns


@settings(max_examples=60)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 128), st.floats(0, 64), st.floats(1, 60), st.floats(1, 60)),
        min_size=1,
        max_size=6,
    ),
    scale_x_y=st.sampled_from([1.0, 1.05, 1.2, 2.0]),
    new_coords=st.booleans(),
)
def test_like_the_slow_loop(boxes: list[tuple], scale_x_y: float, new_coords: bool) -> None:
    head = head_with(scale_x_y=scale_x_y, new_coords=new_coords)
    parts = [one_box(*rest)._replace(image_index=torch.tensor([image])) for image, *rest in boxes]
    targets = Targets(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    # the loop sees the boxes as the network does: relative, in float32, and back
    truth = learnable_truth(targets, 3, SIZE, 3)
    cxcywh = (truth.boxes_cxcywhn * torch.tensor([128, 64, 128, 64])).double()
    corners = torch.cat((cxcywh[:, :2] - cxcywh[:, 2:] / 2, cxcywh[:, :2] + cxcywh[:, 2:] / 2), 1).tolist()
    rows = [(image, 1, tuple(box)) for image, box in zip(truth.image_index.tolist(), corners, strict=True)]
    assert learners(head, targets, 3) == sorted(slow.learners(head.section, GRID, 8, rows))


def test_no_boxes() -> None:
    nothing = Targets(*(tensor[:0] for tensor in one_box(5, 5, 8, 8)))
    assert learners(head_with(), nothing, images=2) == []
