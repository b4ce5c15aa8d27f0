"""SimOTA: the choice by hand arithmetic, against a slow loop, and as a loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.losses.scaled import ScaledLoss
from models.losses.simota import SimotaLoss
from models.targets.by_shape import Matches
from models.targets.darknet import learnable_truth
from models.targets.simota import Candidate, choose, rank_within
from tests.test_scaled_loss import random_raws, random_targets, two_heads


def candidates(rows: list[tuple[int, int, float, float]]) -> Candidate:
    """(place, truth, iou, classes) of each pair."""
    place, truth, iou, classes = zip(*rows, strict=True)
    return Candidate(torch.tensor(place), torch.tensor(truth), torch.tensor(iou), torch.tensor(classes))


def test_a_box_takes_as_many_as_its_ious_sum_to() -> None:
    # .9 + .8 + .7 + .1 = 2.5: two. Costs: 3 * -ln(.9) = .32; .67 + 1; 1.07; 6.9: the first and the third
    chosen = choose(candidates([(0, 0, 0.9, 0.0), (1, 0, 0.8, 1.0), (2, 0, 0.7, 0.0), (3, 0, 0.1, 0.0)]))
    assert chosen.tolist() == [True, False, True, False]


def test_a_box_nobody_fits_takes_its_cheapest() -> None:
    assert choose(candidates([(0, 0, 0.1, 0.0), (1, 0, 0.2, 0.0)])).tolist() == [False, True]
    assert choose(candidates([(0, 0, 0.0, 2.0), (1, 0, 0.0, 1.0)])).tolist() == [False, True]


def test_only_ten_ious_count() -> None:
    chosen = choose(candidates([(place, 0, 0.35, float(place)) for place in range(30)]))
    assert chosen.sum() == 3  # 3.5, not 10.5
    assert chosen[:3].all()


def test_a_prediction_learns_the_cheapest_of_the_boxes_that_want_it() -> None:
    # both boxes want place 0; it fits the second better. The first has no other candidate among its k = 1
    chosen = choose(candidates([(0, 0, 0.5, 0.0), (1, 0, 0.4, 0.0), (0, 1, 0.6, 0.0)]))
    assert chosen.tolist() == [False, False, True]


def test_no_candidates() -> None:
    nothing = Candidate(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0), torch.zeros(0))
    assert choose(nothing).shape == (0,)


def test_rank_within_groups() -> None:
    ranks = rank_within(torch.tensor([1, 0, 1, 1, 0]), torch.tensor([3.0, 5.0, 1.0, 3.0, 4.0]))
    assert ranks.tolist() == [1, 1, 0, 2, 0]


def slow_choice(rows: list[tuple[int, int, float, float]]) -> list[bool]:
    costs = [classes - 3 * math.log(np.float32(iou) + np.float32(1e-8)) for _, _, iou, classes in rows]
    wanted: dict[int, tuple[float, int]] = {}  # place: cost and pair of the cheapest that wants it
    for box in {row[1] for row in rows}:
        own = [index for index, row in enumerate(rows) if row[1] == box]
        ious = sorted((rows[index][2] for index in own), reverse=True)[:10]
        for index in sorted(own, key=lambda index: costs[index])[: max(1, int(sum(ious)))]:
            place = rows[index][0]
            wanted[place] = min(wanted.get(place, (math.inf, -1)), (costs[index], index))
    return [(costs[index], index) == wanted.get(row[0]) for index, row in enumerate(rows)]


@settings(max_examples=100)
@given(
    pairs=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=40), seed=st.integers(0, 2**32)
)
def test_like_the_slow_loop(pairs: set[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [(place, box, float(np.float32(rng.random())), float(np.float32(rng.random()))) for place, box in pairs]
    assert choose(candidates(rows)).tolist() == slow_choice(rows)


def pairs_of(heads: list[Matches]) -> set[tuple[int, ...]]:
    """(head, truth, image, anchor, row, column) of every pair."""
    return {
        (place, *pair)
        for place, one in enumerate(heads)
        for pair in zip(one.truth.tolist(), *(tensor.tolist() for tensor in one.cells), strict=True)
    }


def test_positives_are_some_of_those_in_reach_and_change_with_the_network() -> None:
    heads, targets = two_heads(scale_x_y=2.0), random_targets(3, seed=4)
    truth = learnable_truth(targets, 3, (64, 96), 3)
    seen = []
    for seed in range(2):
        raws = [raw.detach() for raw in random_raws(heads, 3, seed=seed)]
        every = ScaledLoss(heads).assign(raws, truth, (64, 96))
        some = SimotaLoss(heads).assign(raws, truth, (64, 96))
        before, after = pairs_of(every), pairs_of(some)
        assert after < before
        predictions = [(pair[0], *pair[2:]) for pair in after]
        assert len(set(predictions)) == len(predictions)  # one box each
        seen.append(after)
    assert seen[0] != seen[1]


def test_the_choice_falls_on_what_fits() -> None:
    heads, targets = two_heads(scale_x_y=2.0), random_targets(2, seed=6)
    raws = random_raws(heads, 2, seed=6)
    assert SimotaLoss(heads)(raws, targets).mean_iou > ScaledLoss(heads)(raws, targets).mean_iou
    assert SimotaLoss(heads)(raws, targets).total.requires_grad


@pytest.mark.parametrize("new_coords", [False, True])
def test_the_loss_of_the_chosen_is_that_of_scaled(new_coords: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, targets = two_heads(scale_x_y=2.0, new_coords=new_coords), random_targets(2, seed=7)
    raws = random_raws(heads, 2, seed=7)
    monkeypatch.setattr("models.losses.simota.choose", lambda found: torch.ones(len(found.truth), dtype=torch.bool))
    one, other = SimotaLoss(heads)(raws, targets), ScaledLoss(heads)(raws, targets)
    assert one.total.item() == other.total.item()
