"""Every activation against its formula, written for one number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from models.layers.activations import ACTIVATIONS, activate, activate_
from utils.cfg import layers

POINTS = [-30.0, -5.0, -4.5, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.3, 1.0, 1.5, 2.5, 3.0, 4.5, 5.0, 7.0, 30.0]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def stair(x: float) -> float:
    n = math.floor(x)
    return float(math.floor(x / 2)) if n % 2 == 0 else (x - n) + math.floor(x / 2)


FORMULAS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "logistic": sigma,
    "loggy": lambda x: 2 * sigma(x) - 1,
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507 * x if x >= 0 else 1.0507 * 1.6732 * (math.exp(x) - 1),
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "leaky": lambda x: x if x > 0 else 0.1 * x,
    "revleaky": lambda x: x if x > 0 else 0.1 * x,
    "tanh": math.tanh,
    "plse": lambda x: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
    "hardtan": lambda x: min(max(x, -1.0), 1.0),
    "lhtan": lambda x: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x,
    "stair": stair,
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)),
    "swish": lambda x: x * sigma(x),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "hard_mish": lambda x: x if x > 0 else x * x / 2 + x if x > -2 else 0.0,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name: str) -> None:
    wanted = [FORMULAS[name](x) for x in POINTS]
    assert activate(torch.tensor(POINTS, dtype=torch.float64), name).tolist() == pytest.approx(
        wanted, abs=2e-3, rel=2e-4
    )


def test_over_channels() -> None:
    x = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1)
    assert activate(x, "normalize_channels").flatten().tolist() == pytest.approx([1 / 4.0001, 0, 3 / 4.0001])
    e = [math.exp(v) for v in (1, -2, 3)]
    wanted = [v / (sum(e) + 1e-4) for v in e]
    assert activate(x, "normalize_channels_softmax").flatten().tolist() == pytest.approx(wanted)
    e = [math.exp(v - 3) for v in (1, -2, 3)]
    wanted = [v / (sum(e) + 1e-4) for v in e]
    assert activate(x, "normalize_channels_softmax_maxval").flatten().tolist() == pytest.approx(wanted)


def test_every_name_a_cfg_may_use_is_there() -> None:
    assert set(layers.ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_place_gives_the_same_value_and_gradient(name: str) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64) * 3
    plain = x.clone().requires_grad_()
    wanted = activate(plain, name)
    wanted.square().sum().backward()
    leaf = x.clone().requires_grad_()
    found = activate_(leaf * 1, name)
    found.square().sum().backward()
    assert torch.equal(found, wanted)
    assert torch.equal(leaf.grad, plain.grad)
    with torch.no_grad():
        assert torch.equal(activate_(x.clone(), name), wanted)
    assert torch.equal(activate(x, name), wanted)  # and x was left as it is


def test_no_gradient_no_copy() -> None:
    x = torch.randn(8)
    assert activate_(x, "mish").data_ptr() == x.data_ptr()
