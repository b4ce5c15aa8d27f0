"""training.state: the best evaluation, and a state that goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.ema import Ema
from training.state import Best, TrainingState, decisive
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import Diverged, WeightsError


def new_state(seed: int = 0, scale: bool = False) -> TrainingState:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=scale, init_scale=8.0, growth_interval=3)
    return TrainingState(network, Ema(network, decay=0.9, ramp=5), optimizer, scaler)


def train(state: TrainingState, steps: int) -> TrainingState:
    for _ in range(steps):
        images = torch.full((2, 3, 8, 8), state.iteration / 10) + torch.arange(8.0)
        loss = state.network(images).square().mean()
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
        state.ema.update(state.network)
        state.iteration += 1
        state.best.update(state.iteration, float(torch.rand(())), 0.1)
    return state


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize("scale", [False, True])
def test_a_saved_state_goes_on_to_the_bit(tmp_path: Path, scale: bool) -> None:
    whole = train(new_state(scale=scale), 9).as_dict()
    save_checkpoint(tmp_path / "last.pt", {"cfg": "", "names": [], **train(new_state(scale=scale), 4).as_dict()})
    again = new_state(seed=5, scale=scale)
    again.restore(load_checkpoint(tmp_path / "last.pt"), "last.pt")
    assert again.iteration == 4
    assert_same(train(again, 5).as_dict(), whole)


@pytest.mark.parametrize("part", ["model", "ema_state", "optimizer", "rng"])
def test_every_part_is_needed(part: str) -> None:
    """Each part left out changes the result: the test above would see it."""
    whole = train(new_state(), 9).as_dict()
    saved, again = train(new_state(), 4).as_dict(), new_state(seed=5)
    fresh = new_state(seed=6).as_dict()
    again.restore({**saved, part: fresh[part]}, "x")
    with pytest.raises(AssertionError):
        assert_same(train(again, 5).as_dict(), whole)


def test_a_state_is_plain() -> None:
    def kinds(value: Any) -> set[type]:
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()), map(type, value))
        return set().union(*map(kinds, value)) if isinstance(value, list) else {type(value)}

    allowed = {torch.Tensor, int, float, bool, str, type(None)}
    assert kinds(train(new_state(scale=True), 2).as_dict()) <= allowed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"optimizer": None}, "has no attribute"),
        ({"model": {}}, "Missing key"),
        ({"ema_state": {"average": {}, "updates": 0}}, "tensors differ in name or shape"),
        ({"best": {"unknown": 1}}, "unexpected keyword argument"),
        ({"rng": torch.zeros(3)}, "ByteTensor"),
    ],
)
def test_what_cannot_be_restored(change: dict[str, Any], reason: str) -> None:
    saved = new_state().as_dict()
    with pytest.raises(WeightsError, match=rf"last\.pt: cannot go on from it \(.*{reason}.*\); start a new run with"):
        new_state().restore({**saved, **change}, "last.pt")


def test_a_state_that_keeps_less() -> None:
    saved = new_state().as_dict()
    del saved["scaler"]
    with pytest.raises(WeightsError, match=r"cannot go on from it \('scaler'\)"):
        new_state().restore(saved, "last.pt")


@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(name: str, value: float) -> None:
    state = new_state()
    state.check_finite()
    state.network.state_dict()[name].view(-1)[0] = value
    with pytest.raises(Diverged, match=f"iteration 0: {name} holds NaN or infinity; lower learning_rate"):
        state.check_finite()


def test_the_best_is_the_highest_ap50_then_ap() -> None:
    best = Best()
    assert best.update(10, 0.5, 0.2)
    assert not best.update(20, 0.5, 0.2)  # equal is not better
    assert not best.update(30, 0.4, 0.9)
    assert (best.iteration, best.evaluations_since) == (10, 2)
    assert best.update(40, 0.5, 0.21)
    assert best == Best(40, 0.5, 0.21, 0)


def test_ap_decides_where_it_is_asked_for() -> None:
    best = Best()
    for iteration, (ap50, ap) in enumerate([(0.5, 0.2), (0.4, 0.3), (0.6, 0.3), (0.9, 0.1)], start=1):
        best.update(iteration, *decisive(ap50, ap, "ap"))
    assert best == Best(3, 0.3, 0.6, 1)
    assert decisive(0.5, 0.2, None) == decisive(0.5, 0.2, "ap50") == (0.5, 0.2)


def test_the_first_evaluation_is_the_best_even_at_zero_but_not_without_truth() -> None:
    assert Best().update(1, 0.0, 0.0)
    assert not Best().update(1, -1.0, -1.0)
