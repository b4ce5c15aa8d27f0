"""training.layer_updates: the keys of single layers around an optimiser step."""

from __future__ import annotations

import math

import pytest
import torch

from models.darknet import Darknet
from training.layer_updates import LayerUpdates, drop_not_finite, freeze_weights_beside_batch_norm
from training.optim import make_optimizer, parameter_groups
from utils.cfg import parse_cfg

NET = "[net]\nwidth=8\nheight=8\nchannels=3\nbatch=1\nburn_in=10\nlearning_rate=.5\ndecay=.1\nmomentum=.9\n"
NORMALIZED = "[convolutional]\nbatch_normalize=1\nfilters=2\nsize=1\nactivation=linear\n"
PLAIN = "[convolutional]\nfilters=2\nsize=1\nactivation=linear\n"


def network(first: str = "", second: str = "", net: str = "") -> Darknet:
    """A batch-normalised convolution and a plain one."""
    return Darknet(parse_cfg(NET + net + NORMALIZED + first + PLAIN + second)).train()


def step(net: Darknet, updates: LayerUpdates, optimizer: torch.optim.Optimizer, iteration: int) -> None:
    (net(torch.ones(2, 3, 8, 8))[0] * torch.arange(4.0).view(2, 2).repeat(1, 64)).sum().backward()
    updates.before(iteration)
    optimizer.step()
    optimizer.zero_grad()
    updates.after()


def moved(net: Darknet, *iterations: int) -> list[bool]:
    """Whether the first layer's weights move in each of ``iterations``."""
    updates, optimizer, result = LayerUpdates(net), make_optimizer(net, net.config.net), []
    for iteration in iterations:
        before = net.layers[0].conv.weight.detach().clone()
        step(net, updates, optimizer, iteration)
        result.append(not torch.equal(net.layers[0].conv.weight, before))
    return result


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("dont_update=2\n", [False, False, True, True]),
        ("burnin_update=.3\n", [False, False, True, True]),  # while iteration < .3 * 10
        ("", [True, True, True, True]),
    ],
)
def test_a_held_layer_stays_to_the_bit(key: str, wanted: list[bool]) -> None:
    assert moved(network(key), 1, 2, 3, 4) == wanted


def test_a_held_layer_takes_up_no_momentum() -> None:
    net = network("dont_update=3\n")
    optimizer = make_optimizer(net, net.config.net)
    step(net, LayerUpdates(net), optimizer, 1)
    assert net.layers[0].conv.weight not in optimizer.state and net.layers[1].conv.weight in optimizer.state


def test_layers_frozen_for_now_decay() -> None:
    net = network("stopbackward=5\n")
    net.seen = 3
    before = net.layers[0].conv.weight.detach().clone()
    step(net, LayerUpdates(net), make_optimizer(net, net.config.net), 4)
    torch.testing.assert_close(net.layers[0].conv.weight.detach(), before * (1 - 0.5 * 0.1))


def test_clip_bounds_weights_alone() -> None:
    net = network("clip=.05\n")
    with torch.no_grad():
        net.layers[0].conv.weight.fill_(-3)
        net.layers[1].conv.weight.fill_(3)
    LayerUpdates(net).after()
    assert (net.layers[0].conv.weight == -0.05).all() and (net.layers[0].bn.weight == 1).all()
    assert (net.layers[1].conv.weight == 3).all()


def test_gradient_centralisation_is_for_batch_normalised_convolutions() -> None:
    net = network("grad_centr=1\n", "grad_centr=1\n")
    for layer in net.layers:
        layer.conv.weight.grad = torch.arange(float(layer.conv.weight.numel())).view_as(layer.conv.weight)
    LayerUpdates(net).before(20)
    first, second = (layer.conv.weight.grad.flatten(1).tolist() for layer in net.layers)
    assert first == [[-1, 0, 1], [-1, 0, 1]]  # 0, 1, 2 and 3, 4, 5 less their means
    assert second == [[0, 1], [2, 3]]


def test_only_batch_norm_learns() -> None:
    net = network("train_only_bn=1\n", "train_only_bn=1\n")
    freeze_weights_beside_batch_norm(net)
    learned = {id(p) for group in parameter_groups(net, 0.1) for p in group["params"]}
    assert learned == {id(p) for p in (*net.layers[0].bn.parameters(), net.layers[1].conv.bias)}
    assert moved(net, 1, 2) == [False, False]


def test_shared_parameters_follow_their_first_layer() -> None:
    shared = NORMALIZED.replace("filters=2", "filters=3") * 2
    net = Darknet(parse_cfg(NET + shared + "share_index=0\nclip=.01\n")).train()
    net.layers[0].conv.weight.data.fill_(2)
    LayerUpdates(net).after()
    assert (net.layers[0].conv.weight == 2).all()


def test_what_is_not_finite_is_dropped() -> None:
    parameter, other = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([math.nan, math.inf, -math.inf, 2.0])
    drop_not_finite([parameter, other])
    assert parameter.grad.tolist() == [0, 0, 0, 2] and other.grad is None
