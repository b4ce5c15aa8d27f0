"""The heads against hand arithmetic; Darknet's own numbers are in test_darknet_forward."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.heads.gaussian import GaussianYoloHead
from models.heads.region import RegionHead
from models.heads.yolo import DetectionHead, YoloHead
from utils.cfg.heads import GaussianYolo, Region, Yolo

ANCHORS = ((10.0, 20.0), (30.0, 40.0), (50.0, 459.0))


def yolo(stride: tuple[float, float] = (16, 8), **keys) -> YoloHead:
    section = Yolo(classes=2, num=3, anchors=ANCHORS, mask=(1, 2), **keys)
    return YoloHead(section, section.anchors, section.mask, stride=stride, index=7)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_attributes() -> None:
    head = yolo()
    assert head.anchors.tolist() == [[30, 40], [50, 459]]
    assert head.all_anchors.tolist() == [list(anchor) for anchor in ANCHORS]
    assert (head.stride, head.num_classes, head.num_anchors, head.entries, head.index) == ((16, 8), 2, 2, 7, 7)
    assert head.input_size(torch.zeros(1, 14, 3, 5)) == (48, 40)
    assert head.nms == ("default", 0.6)
    assert not list(head.state_dict())


def test_decode_by_hand() -> None:
    raw = torch.zeros(1, 14, 3, 4)
    # Anchor 1 (50 x 459) at row 2, column 3: t = (.5, -1, .2, -.3), objectness 2, classes -2 and 1.
    raw[0, 7:, 2, 3] = torch.tensor([0.5, -1.0, 0.2, -0.3, 2.0, -2.0, 1.0])
    head = yolo(scale_x_y=1.2)
    boxes, objectness, class_probs = head.decode(raw)
    assert boxes.shape == (1, 24, 4)
    x = (3 + sigma(0.5) * 1.2 - 0.1) * 8
    y = (2 + sigma(-1) * 1.2 - 0.1) * 16
    width, height = math.exp(0.2) * 50, math.exp(-0.3) * 459
    index = 1 * 12 + 2 * 4 + 3  # anchor, row, column
    wanted = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert boxes[0, index].tolist() == pytest.approx(wanted, rel=1e-6)
    assert float(objectness[0, index]) == pytest.approx(sigma(2))
    assert class_probs[0, index].tolist() == pytest.approx([sigma(-2), sigma(1)])


def test_new_coords_by_hand() -> None:
    raw = torch.full((1, 14, 1, 1), 0.5)
    raw[0, :7, 0, 0] = torch.tensor([0.75, 0.25, 0.6, 0.1, 0.9, 0.3, 0.8])  # the convolution's own sigmoid is applied
    boxes, objectness, class_probs = yolo(new_coords=True, scale_x_y=2.0).decode(raw)
    x, y = (0.75 * 2 - 0.5) * 8, (0.25 * 2 - 0.5) * 16
    width, height = 4 * 0.36 * 30, 4 * 0.01 * 40
    wanted = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    assert boxes[0, 0].tolist() == pytest.approx(wanted, rel=1e-5)
    assert float(objectness[0, 0]) == pytest.approx(0.9)
    assert class_probs[0, 0].tolist() == pytest.approx([0.3, 0.8])


def test_activate_leaves_sizes_alone() -> None:
    raw = torch.randn(2, 14, 3, 4)
    grid, active = raw.view(2, 2, 7, 3, 4), yolo(scale_x_y=1.1).activate(raw)
    assert active.shape == (2, 2, 7, 3, 4)
    torch.testing.assert_close(active[:, :, :2], grid[:, :, :2].sigmoid() * 1.1 - 0.05)
    assert torch.equal(active[:, :, 2:4], grid[:, :, 2:4])
    torch.testing.assert_close(active[:, :, 4:], grid[:, :, 4:].sigmoid())


def gaussian(**keys) -> GaussianYoloHead:
    section = GaussianYolo(classes=2, num=3, anchors=ANCHORS, mask=(0,), **keys)
    return GaussianYoloHead(section, section.anchors, section.mask, stride=(8, 8))


@pytest.mark.parametrize(("point", "side"), [("center", 0), ("left_top", 0.5), ("right_bottom", -0.5)])
def test_gaussian_by_hand(point: str, side: float) -> None:
    values = [0.5, -1.0, -0.5, -2.0, 0.1, -3.0, 0.2, -1.5, 2.0, 1.0, -1.0]  # x sx y sy w sw h sh obj classes
    raw = torch.tensor(values).view(1, 11, 1, 1)
    boxes, objectness, class_probs = gaussian(yolo_point=point).decode(raw)
    width, height = math.exp(0.1) * 10, math.exp(0.2) * 20
    x, y = sigma(0.5) * 8 + side * width, sigma(-0.5) * 8 + side * height
    assert boxes[0, 0].tolist() == pytest.approx(
        [x - width / 2, y - height / 2, x + width / 2, y + height / 2], rel=1e-5
    )
    certain = 1 - (sigma(-1) + sigma(-2) + sigma(-3) + sigma(-1.5)) / 4
    assert float(objectness[0, 0]) == pytest.approx(sigma(2))
    assert class_probs[0, 0].tolist() == pytest.approx([sigma(1) * certain, sigma(-1) * certain])


def region(**keys) -> RegionHead:
    section = Region(classes=3, num=2, anchors=((1.0, 2.0), (3.0, 4.0)), **keys)
    return RegionHead(section, [(32.0, 64.0), (96.0, 128.0)], (0, 1), stride=(32, 32))


def test_region_by_hand() -> None:
    raw = torch.zeros(1, 16, 2, 2)
    raw[0, 8:, 1, 0] = torch.tensor([0.5, -1.0, 0.2, -0.3, 2.0, 1.0, 2.0, 0.0])
    boxes, objectness, class_probs = region(softmax=True).decode(raw)
    x, y = sigma(0.5) * 32, (1 + sigma(-1)) * 32
    width, height = math.exp(0.2) * 96, math.exp(-0.3) * 128
    assert boxes[0, 6].tolist() == pytest.approx(
        [x - width / 2, y - height / 2, x + width / 2, y + height / 2], rel=1e-5
    )
    assert float(objectness[0, 6]) == pytest.approx(sigma(2))
    total = math.e + math.e**2 + 1
    assert class_probs[0, 6].tolist() == pytest.approx([math.e / total, math.e**2 / total, 1 / total])
    plain = region().decode(raw).class_probs
    assert plain[0, 6].tolist() == pytest.approx([sigma(1), sigma(2), 0.5])
    assert region().nms == ("default", 0.6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), threshold=st.floats(0, 1), rows=st.integers(1, 4), columns=st.integers(1, 4))
@pytest.mark.parametrize("make", [yolo, lambda: yolo(new_coords=True), gaussian, region])
def test_candidates_are_the_decoded_cells_above_the_threshold(
    make, seed: int, threshold: float, rows: int, columns: int
) -> None:
    head: DetectionHead = make()
    raw = torch.randn(2, head.num_anchors * head.entries, rows, columns, generator=torch.Generator().manual_seed(seed))
    decoded = head.decode(raw)
    assert decoded.boxes.shape == (2, head.num_anchors * rows * columns, 4)
    found = head.candidates(raw, threshold)
    assert len(found.boxes) == (decoded.objectness > threshold).sum()
    for image in range(2):
        above = decoded.objectness[image] > threshold
        mine = found.image_index == image
        for one, other in ((found.boxes, decoded.boxes), (found.class_probs, decoded.class_probs)):
            one, other = one[mine], other[image][above]
            order = lambda values: values[values[:, 0].argsort()]  # noqa: E731 cells come in another order
            torch.testing.assert_close(order(one), order(other))


def test_of_equal_cells_the_first_of_the_grid_comes_first() -> None:
    """Darknet goes through a head cell by cell, through the anchors in each: so do the candidates."""
    found = yolo().candidates(torch.zeros(1, 14, 2, 2), 0.1)
    centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert centres.tolist() == [[4, 8], [4, 8], [12, 8], [12, 8], [4, 24], [4, 24], [12, 24], [12, 24]]
    assert (found.boxes[:, 2] - found.boxes[:, 0]).tolist() == [30, 50] * 4


def test_nan_is_not_above_the_threshold() -> None:
    raw = torch.full((1, 14, 2, 2), math.nan)
    assert len(yolo().candidates(raw, 0.0).boxes) == 0


def test_anchors_keep_their_digits_in_half_precision() -> None:
    head = yolo().to(torch.bfloat16)
    assert head.anchors.dtype == torch.float32
    assert head.anchors[1, 1] == 459  # 460 in bfloat16
    raw = torch.randn(1, 14, 2, 2, dtype=torch.bfloat16)
    assert head(raw).dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in head.decode(raw))


def test_the_base_class_decodes_nothing() -> None:
    section = Yolo(classes=2, num=3, anchors=ANCHORS)
    head = DetectionHead(section, section.anchors, section.mask, stride=(8, 8))
    with pytest.raises(NotImplementedError):
        head.activate(torch.zeros(1, 21, 1, 1))
