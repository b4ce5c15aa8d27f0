"""Boxes against slow loops, torchvision and hand arithmetic."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference import box_overlap
from utils import boxes as box_ops

MEASURES = ["iou", "giou", "diou", "ciou"]

coordinate = st.integers(-50, 50).map(float)
side = st.integers(0, 60).map(float)
box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, side, side)
box_lists = st.lists(st.tuples(box, box), min_size=1, max_size=8)


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 80
    return torch.cat((low, low + 1 + torch.rand(count, 2, generator=generator) * 60), dim=1)


def test_conversions_by_hand():
    boxes = torch.tensor([[10.0, 20.0, 40.0, 30.0]])
    # centre (25, 25), 30 wide, 10 high
    assert box_ops.xyxy_to_cxcywh(boxes).tolist() == [[25, 25, 30, 10]]
    assert box_ops.xyxy_to_xywh(boxes).tolist() == [[10, 20, 30, 10]]
    assert box_ops.cxcywh_to_xyxy(torch.tensor([[25.0, 25.0, 30.0, 10.0]])).tolist() == boxes.tolist()
    assert box_ops.xywh_to_xyxy(torch.tensor([[10.0, 20.0, 30.0, 10.0]])).tolist() == boxes.tolist()
    assert box_ops.area(boxes).tolist() == [300]


@given(st.lists(box, max_size=6))
@settings(deadline=None, max_examples=30)
def test_conversions_undo_each_other(rows):
    boxes = torch.tensor(rows).reshape(-1, 4)
    before = boxes.clone()
    torch.testing.assert_close(box_ops.cxcywh_to_xyxy(box_ops.xyxy_to_cxcywh(boxes)), boxes)
    torch.testing.assert_close(box_ops.xywh_to_xyxy(box_ops.xyxy_to_xywh(boxes)), boxes)
    assert torch.equal(boxes, before)


def test_clip_keeps_boxes_inside_height_and_width():
    boxes = torch.tensor([[-5.0, -1.0, 700.0, 500.0], [3.0, 4.0, 5.0, 6.0]])
    assert box_ops.clip_boxes(boxes, (480, 640)).tolist() == [[0, 0, 640, 480], [3, 4, 5, 6]]


def test_overlap_by_hand():
    one, other = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 2.0, 6.0, 4.0]])
    # intersection 2 * 2 = 4, union 16 + 8 - 4 = 20
    assert box_ops.iou(one, other).item() == pytest.approx(4 / 20)
    # hull 6 * 4 = 24: 0.2 - (24 - 20) / 24
    assert box_ops.giou(one, other).item() == pytest.approx(0.2 - 4 / 24)
    # centres (2, 2) and (4, 3): 5 / (36 + 16)
    assert box_ops.diou(one, other).item() == pytest.approx(0.2 - 5 / 52)
    # angles atan(1) = .7853982 and atan(2) = 1.1071487: v = 4 / 9.8696044 * .3217506^2 = .0419566,
    # alpha = .0419566 / (1 - .2 + .0419566) = .0498322, alpha * v = .0020908
    assert box_ops.ciou(one, other).item() == pytest.approx(0.2 - 5 / 52 - 0.0020908, abs=1e-6)


@pytest.mark.parametrize("name", MEASURES)
@given(rows=box_lists)
@settings(deadline=None, max_examples=40)
def test_measures_match_the_slow_loop(name, rows):
    first, second = (torch.tensor([pair[side] for pair in rows]) for side in (0, 1))
    expected = torch.tensor([getattr(box_overlap, name)(*pair) for pair in rows])
    measure = getattr(box_ops, name)
    torch.testing.assert_close(measure(first, second), expected, rtol=1e-5, atol=1e-5)
    assert (measure(first, second) > {"iou": -1e-9, "giou": -1.0001, "diou": -1.0001, "ciou": -1.5}[name]).all()


@pytest.mark.parametrize(
    ("ours", "theirs"), [("giou", "generalized_box_iou"), ("diou", "distance_box_iou"), ("ciou", "complete_box_iou")]
)
def test_measures_match_torchvision(ours, theirs):
    first, second = random_boxes(40, 1), random_boxes(40, 2)
    torch.testing.assert_close(getattr(box_ops, ours)(first, second), getattr(tv, theirs)(first, second).diagonal())


def test_all_pairs_match_torchvision_and_the_pairs():
    first, second = random_boxes(30, 3), random_boxes(20, 4)
    table = box_ops.box_iou(first, second)
    torch.testing.assert_close(table, tv.box_iou(first, second))
    torch.testing.assert_close(table.diagonal(), box_ops.iou(first[:20], second))


def test_no_boxes():
    nothing = torch.zeros(0, 4)
    assert box_ops.box_iou(nothing, random_boxes(3, 0)).shape == (0, 3)
    assert box_ops.ciou(nothing, nothing).shape == (0,)


def test_half_precision_does_not_overflow():
    large = torch.tensor([[0.0, 0.0, 600.0, 600.0]], dtype=torch.float16)  # 360,000 > 65,504
    assert box_ops.iou(large, large).item() == 1


@pytest.mark.parametrize("name", MEASURES)
def test_gradients_are_exact_and_finite(name):
    measure = getattr(box_ops, name)
    if name != "ciou":  # whose alpha is a constant on purpose
        first, second = random_boxes(6, 5).double().requires_grad_(), random_boxes(6, 6).double()
        assert torch.autograd.gradcheck(lambda boxes: measure(boxes, second), first)
    flat = torch.tensor([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 5.0, 0.0]], requires_grad=True)
    measure(flat, torch.tensor([[3.0, 3.0, 3.0, 3.0], [9.0, 9.0, 9.0, 12.0]])).sum().backward()
    assert flat.grad.isfinite().all()


def test_alpha_of_ciou_is_a_constant():
    one = torch.tensor([[0.0, 0.0, 4.0, 4.0]], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[1.0, 1.0, 6.0, 3.0]], dtype=torch.float64)
    box_ops.ciou(one, other).sum().backward()
    plain = one.detach().clone().requires_grad_()
    # with v = 4/pi^2 (atan(w/h) - atan(5/2))^2 and alpha = v / (1 - IoU + v) held fixed
    extent = plain[:, 2:] - plain[:, :2]
    v = 4 / torch.pi**2 * (torch.atan(extent[:, 0] / extent[:, 1]) - torch.atan(torch.tensor(2.5))) ** 2
    alpha = (v / (1 - box_ops.iou(plain, other) + v)).detach()
    (box_ops.diou(plain, other) - alpha * v).sum().backward()
    torch.testing.assert_close(one.grad, plain.grad, rtol=1e-6, atol=1e-8)


def test_pairs_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"ciou pairs boxes one to one, got \(3, 4\) and \(5, 4\); use box_iou"):
        box_ops.ciou(torch.zeros(3, 4), torch.zeros(5, 4))


def test_all_pairs_of_no_boxes_at_all_are_refused():
    with pytest.raises(ValueError, match=r"box_iou compares \(N, 4\) with \(M, 4\), got \(4,\) and \(2, 4\)"):
        box_ops.box_iou(torch.zeros(4), torch.zeros(2, 4))
