"""The learning rate against its formulas, and which parameter decays."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.optim import learning_rate, make_optimizer, parameter_groups, set_learning_rate
from utils.cfg.net import Net


class Layers(nn.Module):
    """A convolution with batch norm, one with a bias, and a weight of a layer's own."""

    def __init__(self, *multipliers: float) -> None:
        super().__init__()
        plain, bare = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)), nn.Conv2d(4, 2, 1)
        own = nn.ParameterList([nn.Parameter(torch.ones(2))])
        self.layers = nn.ModuleList([plain, bare, own])
        rates = multipliers or (1.0, 1.0, 1.0)
        self.config = SimpleNamespace(layers=tuple(SimpleNamespace(learning_rate=rate) for rate in rates))


def rates(net: Net, *iterations: int) -> list[float]:
    return [learning_rate(net, iteration) for iteration in iterations]


def test_warm_up_is_a_power_of_the_progress():
    net = Net(learning_rate=0.01, burn_in=4, power=4.0)
    # (1/4)^4 = 1/256, (2/4)^4 = 1/16, (3/4)^4 = 81/256, then the policy
    assert rates(net, 1, 2, 3, 4) == pytest.approx([0.01 / 256, 0.01 / 16, 0.81 / 256, 0.01])


def test_steps_multiply_their_scales_from_the_step_on():
    net = Net(learning_rate=1.0, policy="steps", steps=(10, 20), scales=(0.1, 0.5))
    assert rates(net, 1, 9, 10, 19, 20, 99) == pytest.approx([1, 1, 0.1, 0.1, 0.05, 0.05])


def test_steps_before_the_start_act_at_once():
    net = Net(learning_rate=1.0, policy="steps", steps=(-1, 20), scales=(0.1, 10.0))
    assert rates(net, 1, 20) == pytest.approx([0.1, 1.0])


def test_policies_by_hand():
    def net(policy: str, **keys) -> Net:
        return Net(learning_rate=2.0, policy=policy, max_batches=100, **keys)

    assert rates(net("constant"), 1, 50) == [2, 2]
    assert rates(net("step", step=10, scale=0.5), 9, 10, 25) == pytest.approx([2, 1, 0.5])
    assert rates(net("exp", gamma=0.9), 1, 3) == pytest.approx([1.8, 2 * 0.729])
    assert rates(net("poly", power=2.0), 50, 100, 120) == pytest.approx([0.5, 0, 0])
    # 2 / (1 + e^(0.5 (n - 10)))
    assert rates(net("sigmoid", gamma=0.5, step=10), 10, 12) == pytest.approx([1, 2 / (1 + math.e)])
    assert rates(net("sigmoid", gamma=1000.0, step=10), 1, 100) == [2, 0]


def test_cosine_cycles_grow():
    net = Net(learning_rate=1.0, learning_rate_min=0.2, policy="sgdr", sgdr_cycle=10, sgdr_mult=2, max_batches=70)
    # cycle 1 is steps 0..10, cycle 2 is 10..30: half way of each is 0.2 + 0.8 / 2, the end is 0.2
    assert rates(net, 5, 10, 20, 30) == pytest.approx([0.6, 0.2, 0.6, 0.2])
    assert learning_rate(net, 11) == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi / 20)))


def test_one_cosine_over_the_training_is_the_default_cycle():
    net = Net(learning_rate=1.0, learning_rate_min=0.0, policy="sgdr", max_batches=100)
    assert rates(net, 50, 100) == pytest.approx([0.5, 0])


def test_random_rates_depend_on_seed_and_iteration_only():
    net = Net(learning_rate=1.0, policy="random", power=1.0)
    drawn = [learning_rate(net, iteration, seed=3) for iteration in range(50)]
    assert drawn == [learning_rate(net, iteration, seed=3) for iteration in range(50)]
    assert learning_rate(net, 0, seed=4) != drawn[0]
    assert all(0 <= rate < 1 for rate in drawn) and len(set(drawn)) == 50


@given(
    policy=st.sampled_from(["constant", "step", "steps", "exp", "poly", "sigmoid", "random", "sgdr"]),
    iteration=st.integers(1, 600_000),
    burn_in=st.integers(0, 2000),
    max_batches=st.integers(0, 500_500),
)
@settings(deadline=None, max_examples=60)
def test_every_rate_is_finite_and_within_the_base_rate(policy, iteration, burn_in, max_batches):
    keys = {"steps": (400_000, 450_000), "scales": (0.1, 0.1)} if policy == "steps" else {}
    net = Net(learning_rate=0.01, policy=policy, burn_in=burn_in, max_batches=max_batches, **keys)
    assert 0 <= learning_rate(net, iteration) <= 0.01


def test_weights_decay_biases_and_batch_norm_do_not():
    network = Layers()
    decay = {id(p): group["weight_decay"] for group in parameter_groups(network, 0.3) for p in group["params"]}
    (conv, bn), bare, own = network.layers
    assert decay[id(conv.weight)] == decay[id(bare.weight)] == decay[id(own[0])] == 0.3
    assert decay[id(bn.weight)] == decay[id(bn.bias)] == decay[id(bare.bias)] == 0
    assert len(decay) == 6


def test_frozen_parameters_are_left_out_and_shared_ones_taken_once():
    network = Layers()
    network.layers[0].requires_grad_(False)
    network.layers[2].append(network.layers[1].weight)
    taken = [p for group in parameter_groups(network, 0.1) for p in group["params"]]
    assert {id(p) for p in taken} == {id(p) for p in (*network.layers[1].parameters(), network.layers[2][0])}
    assert len(taken) == 3


def test_layers_multiply_the_rate():
    network = Layers(1.0, 0.5, 0.0)
    optimizer = make_optimizer(network, Net(learning_rate=0.4))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(network.layers[0][0].weight)] == 0.4
    assert rate[id(network.layers[1].bias)] == 0.2
    assert rate[id(network.layers[2][0])] == 0
    set_learning_rate(optimizer, 0.1)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0, 0.05, 0.1]


def test_two_steps_of_sgd_by_hand():
    network = Layers()
    weight, bias = network.layers[1].weight, network.layers[1].bias
    optimizer = make_optimizer(network, Net(learning_rate=0.1, momentum=0.9, decay=0.5, batch=4))
    with torch.no_grad():
        weight.fill_(2), bias.fill_(2)
    for _ in range(2):
        weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)
        optimizer.step()
    # bias: 2 - .1 * 1 - .1 * (.9 + 1) = 1.71
    torch.testing.assert_close(bias.detach(), torch.full_like(bias, 1.71))
    # weight: u = 1 + .5 * 2 = 2 -> 1.8; u = .9 * 2 + 1 + .5 * 1.8 = 3.7 -> 1.43
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1.43))


def test_two_steps_of_darknets_adam_by_hand():
    network = Layers()
    bias = network.layers[1].bias
    net = Net(learning_rate=0.1, decay=0.5, batch=4, adam=True, B1=0.9, B2=0.999, eps=0.01)
    optimizer = make_optimizer(network, net)
    with torch.no_grad():
        bias.fill_(2)
    # Darknet, on ascent sums over the batch: d = -4 * g - decay * 4 * w; w += lr * m^ / (sqrt(v^) + eps)
    value, m, v = 2.0, 0.0, 0.0
    for t, gradient in ((1, 0.3), (2, -1.0)):
        bias.grad = torch.full_like(bias, gradient)
        optimizer.step()
        d = -4 * gradient - 0.5 * 4 * value
        m, v = 0.9 * m + 0.1 * d, 0.999 * v + 0.001 * d * d
        value += 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 0.01)
    torch.testing.assert_close(bias.detach(), torch.full_like(bias, value))


def test_an_optimiser_goes_on_from_its_state():
    network = Layers(1.0, 0.5, 1.0)
    net = Net(learning_rate=0.4)
    optimizer = make_optimizer(network, net)
    set_learning_rate(optimizer, 0.2)
    again = make_optimizer(network, net)
    again.load_state_dict(optimizer.state_dict())
    set_learning_rate(again, 0.2)
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in optimizer.param_groups]


def test_two_steps_of_nesterovs_momentum_by_hand():
    network = Layers()
    bias = network.layers[1].bias
    optimizer = make_optimizer(network, Net(learning_rate=0.1, momentum=0.9), "nesterov")
    with torch.no_grad():
        bias.fill_(2)
    for _ in range(2):
        bias.grad = torch.ones_like(bias)
        optimizer.step()
    # u = 1, step 1 + .9 * 1 = 1.9; u = .9 + 1 = 1.9, step 1 + .9 * 1.9 = 2.71; 2 - .1 * (1.9 + 2.71)
    torch.testing.assert_close(bias.detach(), torch.full_like(bias, 1.539))


def test_the_decay_of_adamw_is_apart_from_the_gradient():
    network = Layers()
    weight, bias = network.layers[1].weight, network.layers[1].bias
    optimizer = make_optimizer(network, Net(learning_rate=0.1, decay=0.5, batch=4, adam=True, eps=0.01), "adamw")
    with torch.no_grad():
        weight.fill_(2), bias.fill_(2)
    weight.grad, bias.grad = torch.full_like(weight, 0.03), torch.full_like(bias, 0.03)
    optimizer.step()
    # first step: m^ = .03, sqrt(v^) = .03: .1 * .03 / (.03 + .01) = .075; the weight loses .1 * .5 of itself before
    torch.testing.assert_close(bias.detach(), torch.full_like(bias, 1.925))
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 2 * 0.95 - 0.075))
