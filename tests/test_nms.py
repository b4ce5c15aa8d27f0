"""Suppression against a loop that follows the definition, and against torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from utils import nms as module
from utils.nms import nms

KINDS = ("default", "greedynms", "diounms", "cornersnms")


def overlap(a: list[float], b: list[float], exponent: float | None) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inner = width * height if width > 0 and height > 0 else 0.0
    outer = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    iou = inner / outer if outer > 0 else 0.0
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    if exponent is None or hull == 0:
        return iou
    distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    return iou - (distance / hull) ** exponent


def slow_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, kind: str, beta: float) -> list[int]:
    exponent = {"greedynms": 0.6, "diounms": beta}.get(kind)
    rows, classes, kept = boxes.double().tolist(), labels.tolist(), []
    for i in scores.argsort(descending=True, stable=True).tolist():
        rivals = (j for j in kept if classes[j] == classes[i])
        if all(overlap(rows[j], rows[i], exponent) <= threshold for j in rivals):
            kept.append(i)
    return kept


def random_boxes(count: int, seed: int, *, spread: float = 200.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    corner, extent = torch.rand(count, 2, generator=rng) * spread, torch.rand(count, 2, generator=rng) * 100
    return torch.cat((corner, corner + extent), 1)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 40),
    classes=st.integers(1, 4),
    threshold=st.floats(0.05, 0.95),
    kind=st.sampled_from(KINDS),
    beta=st.floats(0.2, 2),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_the_definition(
    count: int, classes: int, threshold: float, kind: str, beta: float, seed: int
) -> None:
    boxes = random_boxes(count, seed)
    scores, labels = torch.rand(count), torch.randint(0, classes, (count,))
    before = boxes.clone()
    keep = nms(boxes, scores, labels, threshold, kind=kind, beta=beta)
    assert keep.tolist() == slow_nms(boxes, scores, labels, threshold, kind, beta)
    assert torch.equal(boxes, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 7])
def test_many_boxes_in_blocks(kind: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "ONE_PASS", 128)
    boxes, scores = random_boxes(600, 3, spread=400), torch.rand(600)
    labels = torch.randint(0, classes, (600,))
    keep = nms(boxes, scores, labels, 0.3, kind=kind)
    assert keep.tolist() == slow_nms(boxes, scores, labels, 0.3, kind, 0.6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.0, 60.0, 600.0])  # nearly all suppressed; some; few
def test_a_limit_gives_the_first_of_all(kind: str, spread: float) -> None:
    boxes, scores, labels = random_boxes(900, 4, spread=spread), torch.rand(900), torch.randint(0, 3, (900,))
    every = nms(boxes, scores, labels, 0.3, kind=kind)
    for limit in (0, 1, 2, 7, len(every) - 1, len(every), len(every) + 1, 1000):
        assert torch.equal(nms(boxes, scores, labels, 0.3, kind=kind, limit=limit), every[:limit])


def test_a_limit_spares_the_boxes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, keep = [], module._keep
    monkeypatch.setattr(module, "_keep", lambda boxes, *rest: looked.append(len(boxes)) or keep(boxes, *rest))
    boxes, labels = random_boxes(2000, 1, spread=5000), torch.zeros(2000, dtype=torch.int64)
    assert len(nms(boxes, torch.rand(2000), labels, 0.3, limit=10)) == 10
    assert looked == [40]
    looked.clear()
    same = torch.cat((boxes[:1].expand(1000, 4), boxes[:1000]))  # the first thousand are one
    assert nms(same, torch.arange(2000, 0, -1.0), labels, 0.3, limit=10)[0] == 0
    assert looked == [40, 160, 640, 2000]


def test_agrees_with_torchvision() -> None:
    boxes, scores, labels = random_boxes(3000, 5), torch.rand(3000), torch.randint(0, 80, (3000,))
    wanted = torchvision.ops.batched_nms(boxes.double(), scores.double(), labels, 0.45)
    assert torch.equal(nms(boxes, scores, labels, 0.45), wanted)


def test_distance_keeps_what_iou_drops() -> None:
    # Two 10x10 boxes 3 apart: IoU 70/130 = .538; d^2 = 9, hull 13x10: c^2 = 269, (9/269)^.6 = .130; .538 - .130 = .408.
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert nms(boxes, scores, labels, 0.45).tolist() == [0]
    assert nms(boxes, scores, labels, 0.45, kind="greedynms").tolist() == [0, 1]
    # With beta 2 the distance costs (9/269)^2 = .0011 only.
    assert nms(boxes, scores, labels, 0.45, kind="diounms", beta=2).tolist() == [0]
    assert nms(boxes, scores, labels, 0.45, kind="greedynms", beta=2).tolist() == [0, 1]


def test_classes_are_apart() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    assert nms(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0]), 0.5).tolist() == [1, 2]


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]])
    assert nms(boxes, torch.ones(3), torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [0, 1]


def test_a_chain_is_cut_at_every_second_box() -> None:
    """Box i overlaps i + 1 only: the fixed point takes as many rounds as there are boxes."""
    boxes = torch.tensor([[6.0 * i, 0, 6.0 * i + 10, 10] for i in range(40)])
    keep = nms(boxes, torch.arange(40, 0, -1.0), torch.zeros(40, dtype=torch.int64), 0.2)
    assert keep.tolist() == list(range(0, 40, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_suppress_nothing(kind: str) -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    assert len(nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64), 0.5, kind=kind)) == 3


def test_idempotent() -> None:
    boxes, scores, labels = random_boxes(300, 9), torch.rand(300), torch.randint(0, 3, (300,))
    keep = nms(boxes, scores, labels, 0.4, kind="diounms")
    again = nms(boxes[keep], scores[keep], labels[keep], 0.4, kind="diounms")
    assert again.tolist() == list(range(len(keep)))


def test_errors() -> None:
    boxes, scores, labels = random_boxes(2, 0), torch.rand(2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="2 boxes, 1 scores, 2 labels"):
        nms(boxes, scores[:1], labels, 0.5)
    with pytest.raises(ValueError, match=r"threshold=45: must lie in 0\.\.1"):
        nms(boxes, scores, labels, 45)
    with pytest.raises(ValueError, match="kind='soft': must be one of default"):
        nms(boxes, scores, labels, 0.5, kind="soft")
