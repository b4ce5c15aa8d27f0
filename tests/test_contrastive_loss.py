"""The contrastive loss against a slow loop and against hand arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.heads.yolo import YoloHead
from models.losses.contrastive import ContrastiveLoss, contrastive_delta, embeddings
from tests.reference import contrastive_delta as slow
from utils.cfg.heads import Contrastive, Yolo
from utils.structures import Targets, TrackedTargets

ANCHORS = ((8, 8), (16, 16), (40, 40))
GRID, FEATURES = (4, 6), 5  # of 8 pixels


def head_with(**keys) -> YoloHead:
    section = Yolo(classes=3, num=3, anchors=ANCHORS, **keys)
    return YoloHead(section, section.anchors, section.mask, stride=(8, 8))


def targets_of(*boxes: tuple[int, int, int, float, float, float]) -> TrackedTargets:
    """Rows image, track, label, centre x, centre y, side."""
    image, track, label, x, y, side = torch.tensor(boxes, dtype=torch.float32).T
    corners = torch.stack((x - side / 2, y - side / 2, x + side / 2, y + side / 2), 1)
    return TrackedTargets(image.long(), label.long(), corners, torch.zeros(len(boxes)).bool(), track.long())


def random_maps(images: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3 * FEATURES, *GRID, generator=generator).requires_grad_()


def test_two_views_by_hand() -> None:
    """Alone in its column each pair has probability .9999; the cosine of (1, 0) and (1, 1) is .7071."""
    delta = contrastive_delta(torch.tensor([[1.0, 0], [1, 1]]), torch.tensor([4, 4]), torch.tensor([2, 2]), 0.5, 3)
    cosine = math.sqrt(0.5)
    first = [1e-4 / 0.5 * (1 - cosine), 1e-4 / 0.5]
    second = [1e-4 / (0.5 * math.sqrt(2)) * (1 - cosine), 1e-4 / (0.5 * math.sqrt(2)) * -cosine]
    torch.testing.assert_close(delta, torch.tensor([first, second]), rtol=1e-3, atol=1e-9)


def test_an_object_and_a_stranger_by_hand() -> None:
    """Two views along x and y, and a stranger along x: all similarities are 0 but that of 0 and 2, which is 1."""
    vectors = torch.tensor([[1.0, 0], [0, 1], [2, 0]])
    delta = contrastive_delta(vectors, torch.tensor([4, 4, 9]), torch.tensor([0, 0, 0]), 1.0, 3)
    p01, p02 = 1 / 1, math.e / 1  # beside pair (2, 1) of e^0; beside pair (1, 2): more than 1 counts as .9999
    p10, p12 = 1 / math.e, 1 / math.e  # beside pairs (2, 0) and (0, 2)
    assert p02 > 1
    first = [0.9999 * -(2 - 1), 1 - p01]  # away from (2, 0) by what is not along itself; that is wrong for lengths
    second = [1 - p10 - 2 * p12, 0.0]
    torch.testing.assert_close(delta, torch.tensor([first, second, [0, 0]]), rtol=1e-4, atol=1e-6)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 12), negatives=st.integers(0, 9), cold=st.booleans())
def test_delta_is_that_of_the_slow_loop(seed: int, count: int, negatives: int, cold: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 4))
    vectors[rng.random(count) < 0.1] = 0  # an embedding without direction learns nothing
    tracks = rng.integers(0, 5, count)
    labels, temperature = tracks % 2, 0.1 if cold else 1.0
    expected = slow.contrastive_delta(vectors, tracks.tolist(), labels.tolist(), temperature, negatives)
    found = contrastive_delta(
        torch.from_numpy(vectors), torch.from_numpy(tracks), torch.from_numpy(labels), temperature, negatives
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_which_predictions_have_an_object() -> None:
    targets = targets_of(
        (1, 7, 2, 20, 12, 16),  # image 1, the anchor of 16, row 1, column 2
        (0, 3, 0, 44, 28, 8),  # image 0, the anchor of 8, row 3, column 5
        (0, 4, 1, 44, 28, 8),  # the same place: the last box has it
        (0, 5, 3, 12, 12, 8),  # there is no class 3
    )
    crowd = targets_of((0, 6, 1, 12, 12, 8))._replace(crowd=torch.tensor([True]))
    targets = TrackedTargets(*(torch.cat(parts) for parts in zip(targets, crowd, strict=True)))
    found = embeddings(head_with(), random_maps(2, 0), targets)
    assert torch.stack(found.cells).T.tolist() == [[0, 0, 3, 5], [1, 1, 1, 2]]
    assert found.tracks.tolist() == [4, 7]
    assert found.labels.tolist() == [1, 2]


def test_gradient_is_minus_the_delta() -> None:
    section = Contrastive(yolo_layer=0, temperature=0.5, cls_normalizer=3.0, max_delta=0.4)
    head, raw = head_with(), random_maps(3, 1)
    targets = targets_of(
        (0, 1, 0, 4, 4, 8), (0, 2, 0, 20, 12, 16), (1, 1, 0, 28, 4, 16), (1, 2, 0, 12, 28, 8), (2, 9, 1, 12, 12, 40)
    )
    losses = ContrastiveLoss([(section, head)])([raw], targets)
    (losses.total / 2).backward()
    grid = raw.detach().view(3, 3, FEATURES, *GRID)
    cells = [(0, 0, 0, 0), (0, 1, 1, 2), (1, 0, 3, 1), (1, 1, 0, 3), (2, 2, 1, 1)]
    vectors = np.stack([grid[b, a, :, j, i].double().numpy() for b, a, j, i in cells])
    expected = slow.contrastive_delta(vectors, [1, 2, 2, 1, 9], [0, 0, 0, 0, 1], 0.5, 3)
    expected = np.clip(3 * expected, -0.4, 0.4)
    assert (np.abs(expected) == 0.4).any()
    delta = torch.zeros_like(grid)
    for cell, row in zip(cells, expected, strict=True):
        b, a, j, i = cell
        delta[b, a, :, j, i] = torch.from_numpy(row).float()
    torch.testing.assert_close(raw.grad.view_as(delta), -delta / 2, rtol=1e-5, atol=1e-6)
    assert losses.total.item() == losses.classes.item() == pytest.approx(np.square(expected).sum(), rel=1e-5)
    assert losses.box == losses.objectness == losses.positives == losses.mean_iou == 0


def test_without_tracks_there_is_nothing_to_learn() -> None:
    raw, tracked = random_maps(2, 0), targets_of((0, 1, 0, 4, 4, 8), (1, 1, 0, 4, 4, 8))
    loss = ContrastiveLoss([(Contrastive(yolo_layer=0), head_with())])
    assert loss([raw], tracked).total > 0
    untracked = Targets(*tracked[:4])
    losses = loss([raw], untracked)
    losses.total.backward()
    assert losses.total == 0
    assert not raw.grad.any()
    nothing = TrackedTargets(*(part[:0] for part in tracked))
    assert loss([raw], nothing).total == 0


def test_learning_brings_views_together() -> None:
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    tracks, labels = torch.tensor([0, 0, 1, 1, 2, 2]), torch.zeros(6).long()
    for _ in range(200):
        vectors = vectors + 0.1 * contrastive_delta(vectors, tracks, labels, 0.5, 3)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    similar = unit @ unit.T
    same = tracks[:, None] == tracks
    assert similar[same].min() > similar[~same].max() + 0.5


def test_tracked_targets_move() -> None:
    moved = targets_of((0, 1, 0, 4, 4, 8)).to("meta")
    assert isinstance(moved, TrackedTargets)
    assert {part.device.type for part in moved} == {"meta"}
