"""Which anchor learns which box, by hand arithmetic."""

from __future__ import annotations

import pytest
import torch

from models.targets import darknet as assignment
from models.targets.darknet import (
    Cells,
    assign_anchors,
    best_overlap,
    cells_of,
    crowd_coverage,
    distinct,
    learnable_truth,
)
from tests.reference import box_overlap
from utils.structures import Targets

SIZE = (100, 200)  # H, W


def targets(rows: list[tuple[int, int, tuple[float, float, float, float], bool]]) -> Targets:
    image, label, boxes, crowd = zip(*rows, strict=True)
    return Targets(torch.tensor(image), torch.tensor(label), torch.tensor(boxes), torch.tensor(crowd))


def test_truth_is_relative_to_width_and_height():
    truth = learnable_truth(targets([(0, 4, (20.0, 10.0, 60.0, 40.0), False)]), 1, SIZE, 5)
    # centre (40, 25), size (40, 30) over (200, 100)
    torch.testing.assert_close(truth.boxes_cxcywhn, torch.tensor([[0.2, 0.25, 0.2, 0.3]]))
    torch.testing.assert_close(truth.padded, torch.tensor([[[0.1, 0.1, 0.3, 0.4]]]))


def test_truth_of_each_image_keeps_its_order():
    box, other = (20.0, 10.0, 60.0, 40.0), (40.0, 0.0, 80.0, 50.0)
    rows = [(2, 0, box, False), (0, 1, box, False), (2, 2, other, False), (0, 3, other, True), (2, 4, box, False)]
    truth = learnable_truth(targets(rows), 4, SIZE, 5)
    assert truth.image_index.tolist() == [2, 0, 2, 2]
    assert truth.labels.tolist() == [0, 1, 2, 4]
    assert truth.rows.tolist() == [[1, -1, -1], [-1, -1, -1], [0, 2, 3], [-1, -1, -1]]
    assert not truth.padded[1].any()
    torch.testing.assert_close(truth.crowds[:, 0], torch.tensor([[0.2, 0, 0.4, 0.5], [0] * 4, [0] * 4, [0] * 4]))


def test_only_the_best_anchor_of_all_heads_learns():
    anchors = torch.tensor([[10.0, 10.0], [20.0, 20.0], [40.0, 40.0]])
    wh = torch.tensor([[11.0, 11.0], [18.0, 22.0], [50.0, 50.0]])
    # this head has anchors 1 and 2: the first box belongs to another head
    truth, anchor = assign_anchors(wh, anchors, (1, 2), 1.0, "iou")
    assert (truth.tolist(), anchor.tolist()) == ([1, 2], [0, 1])


def test_other_anchors_above_iou_thresh_learn_too():
    anchors = torch.tensor([[10.0, 10.0], [20.0, 20.0], [40.0, 40.0]])
    wh = torch.tensor([[11.0, 11.0], [18.0, 22.0], [50.0, 50.0]])
    # 11x11 in 20x20: 121 / 400 = .30; 18x22 with 40x40: 396 / 1600 = .25; 50x50 with 20x20: 400 / 2500 = .16
    truth, anchor = assign_anchors(wh, anchors, (1, 2), 0.213, "iou")
    assert (truth.tolist(), anchor.tolist()) == ([0, 1, 1, 2], [0, 0, 1, 1])


def test_the_first_of_equal_anchors_is_best():
    anchors = torch.tensor([[10.0, 10.0], [10.0, 10.0]])
    assert assign_anchors(torch.tensor([[8.0, 8.0]]), anchors, (1,), 1.0, "iou")[0].numel() == 0
    assert assign_anchors(torch.tensor([[8.0, 8.0]]), anchors, (0,), 1.0, "iou")[0].numel() == 1


def test_cells():
    centres = torch.tensor([[0.0, 0.0], [0.49, 0.51], [0.999, 0.26], [1.0, 1.0], [-0.1, 1.2]])
    row, column = cells_of(centres, (4, 2))
    assert row.tolist() == [0, 2, 1, 3, 3]
    assert column.tolist() == [0, 0, 1, 1, 0]


def test_learners_of_one_prediction_share_a_slot():
    cells = Cells(*torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [2, 2, 2, 1], [3, 3, 3, 3]]))
    slots = distinct(cells, (2, 2, 4, 5))
    assert slots.index[0] == slots.index[2]
    assert len(slots.first) == 3
    shared = slots.index[0]
    assert (slots.first[shared], slots.last[shared]) == (0, 2)
    assert [int(tensor[shared]) for tensor in slots.cells] == [1, 0, 2, 3]


@pytest.mark.parametrize("at_once", [1, 7, 1 << 18])
def test_best_overlap_compares_with_the_own_image_only(monkeypatch, at_once):
    monkeypatch.setattr(assignment, "_PAIRS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(9, 2, generator=generator) * 80
    boxes = torch.cat((low, low + 20), 1)
    image_index = torch.tensor([0, 0, 1, 3, 3, 3, 3, 0, 1])
    truth = learnable_truth(Targets(image_index, torch.zeros(9).long(), boxes, torch.zeros(9).bool()), 4, (100, 100), 1)
    image, predictions = torch.arange(20) % 4, torch.rand(20, 2, generator=generator) * 0.8
    predictions = torch.cat((predictions, predictions + 0.2), 1)
    overlap, rows = best_overlap(image, predictions, truth)
    for n in range(20):
        own = [(box_overlap.iou(tuple((predictions[n] * 100).tolist()), tuple(boxes[t].tolist())), -t)
               for t in range(9) if image_index[t] == image[n]]  # fmt: skip
        best, row = max(own, default=(0.0, 0))
        assert overlap[n].item() == pytest.approx(best, abs=1e-6)
        assert best == 0 or rows[n].item() == -row


def test_crowd_coverage_is_a_part_of_the_prediction():
    truth = learnable_truth(targets([(0, 0, (0.0, 0.0, 100.0, 100.0), True)]), 2, SIZE, 5)  # the left half
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.4, 0.0, 0.8, 1.0], [0.6, 0.0, 0.8, 1.0], [0.1, 0.1, 0.2, 0.2]])
    coverage = crowd_coverage(torch.tensor([0, 0, 0, 1]), boxes, truth)
    torch.testing.assert_close(coverage, torch.tensor([1.0, 0.25, 0.0, 0.0]))


def test_no_truth_at_all():
    empty = Targets(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, 4), torch.zeros(0).bool())
    truth = learnable_truth(empty, 2, SIZE, 5)
    overlap, rows = best_overlap(torch.tensor([0, 1]), torch.rand(2, 4), truth)
    assert overlap.tolist() == [0, 0] and rows.tolist() == [0, 0]
    assert assign_anchors(truth.boxes_cxcywhn[:, 2:], torch.ones(3, 2), (0,), 0.2, "iou")[0].numel() == 0
