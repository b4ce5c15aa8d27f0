"""The average of the weights by hand arithmetic, and its state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from training.ema import DarknetEma, Ema, make_ema
from utils.cfg.net import Net
from utils.errors import UsageError


def small_network(value: float = 1.0) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    return network


def test_two_updates_by_hand():
    network = small_network(1.0)
    ema = Ema(network, decay=0.9, ramp=0)
    for value in (2.0, 3.0):
        with torch.no_grad():
            network[0].weight.fill_(value)
        network[1].running_mean.fill_(value)
        ema.update(network)
    # .9 * 1 + .1 * 2 = 1.1; .9 * 1.1 + .1 * 3 = 1.29
    assert ema.module_state()["0.weight"].item() == pytest.approx(1.29)
    # batch norm statistics start at 0: .1 * 2 = .2; .9 * .2 + .1 * 3 = .48
    assert ema.module_state()["1.running_mean"].item() == pytest.approx(0.48)


def test_the_ramp_forgets_early_weights():
    network = small_network(0.0)
    ema = Ema(network, decay=0.99, ramp=10)
    expected = 0.0
    for update in range(1, 6):
        with torch.no_grad():
            network[0].weight.fill_(update)
        ema.update(network)
        decay = 0.99 * (1 - math.exp(-update / 10))
        expected = decay * expected + (1 - decay) * update
    assert ema.module_state()["0.weight"].item() == pytest.approx(expected, rel=1e-5)
    assert expected > 3  # without the ramp it would be 0.14


def test_counters_are_copied():
    network = small_network()
    ema = Ema(network, decay=0.9)
    network(torch.rand(2, 1, 3, 3))
    network(torch.rand(2, 1, 3, 3))
    ema.update(network)
    assert ema.module_state()["1.num_batches_tracked"].item() == 2


def test_the_average_is_its_own_and_float32():
    network = small_network().half()
    ema = Ema(network, decay=0.9)
    assert {t.dtype for t in ema.module_state().values()} == {torch.float32, torch.int64}
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.add_(1)
    assert torch.equal(ema.module_state()["0.weight"], before.float())
    ema.update(network)
    assert torch.equal(network[0].weight, before + 1)


def test_memory_format_is_kept():
    network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    ema = Ema(network, decay=0.5, ramp=0)
    start = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.add_(torch.arange(network.weight.numel()).view_as(network.weight))
    ema.update(network)
    average = ema.module_state()["weight"]
    torch.testing.assert_close(average, (start + network.weight.detach()) / 2)
    assert average.is_contiguous(memory_format=torch.channels_last)


def test_a_network_takes_the_average():
    ema = Ema(small_network(3.0), decay=0.9)
    other = small_network(0.0)
    other.load_state_dict(ema.module_state())
    assert other[0].weight.item() == 3


def test_goes_on_from_its_state_bit_for_bit():
    network, twin = small_network(), small_network()
    ema, again = Ema(network, decay=0.999), Ema(twin, decay=0.999)
    for step in range(6):
        with torch.no_grad():
            network[0].weight.add_(torch.rand(1, 1, 1, 1))
        ema.update(network)
        if step == 2:
            saved = {"average": {k: t.clone() for k, t in ema.state_dict()["average"].items()},
                     "updates": ema.state_dict()["updates"]}  # fmt: skip
            again.load_state_dict(saved)
        if step > 2:
            again.update(network)
    for name, tensor in ema.module_state().items():
        assert torch.equal(tensor, again.module_state()[name]), name


def test_the_state_of_another_network_is_refused():
    ema = Ema(small_network(), decay=0.9)
    with pytest.raises(ValueError, match=r"Ema: 2 tensors differ in name or shape, such as 0.bias; another network"):
        ema.load_state_dict(Ema(nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1), nn.PReLU()),
                                decay=0.9).state_dict())  # fmt: skip


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"Ema: decay=.* .wanted at least 0 and less than 1"):
        Ema(small_network(), decay=decay)


def darknet_average(max_batches: int, alpha: float = 0.5) -> tuple[list[float], list[float]]:
    """The average and the weight after each of ``max_batches`` iterations that set the weight to their number."""
    network = small_network(0.0)
    ema = DarknetEma(network, alpha=alpha, max_batches=max_batches)
    averages, weights = [], []
    for iteration in range(1, max_batches + 1):
        with torch.no_grad():
            network[0].weight.fill_(iteration)
        network[1].running_mean.fill_(iteration)
        ema.update(network)
        assert ema.module_state()["1.running_mean"].item() == iteration  # statistics are those of the network
        averages.append(ema.module_state()["0.weight"].item())
        weights.append(network[0].weight.item())
    return averages, weights


def test_darknets_average_begins_half_way_and_takes_the_weights_place():
    averages, weights = darknet_average(2008)
    # from 1004 on; 1004, .5 * 1004 + .5 * 1005 = 1004.5, .5 * 1004.5 + .5 * 1006 = 1005.25, 1006.125
    assert averages[1002:1007] == [1003, 1004, 1004.5, 1005.25, 1006.125]
    assert weights[1006] == 1007 and weights[1007] == averages[1006] == 1006.125  # 1008 = 2008 - 1000
    assert averages[1007:] == weights[1007:] == [1006.125, *range(1009, 2009)]


def test_a_short_training_has_no_average_of_darknets():
    averages, weights = darknet_average(2000)
    assert averages == weights == list(range(1, 2001))


def test_averages_by_name():
    net = Net(max_batches=5000, ema_alpha=0.9998)
    modern, off = make_ema("modern", small_network(), net), make_ema("off", small_network(), net)
    assert (modern.decay, modern.ramp) == pytest.approx((1 - 1 / 101, 100))
    assert (make_ema("darknet", small_network(), net).decay) == 0.9998
    network = small_network(0.1)
    off.update(network)
    assert off.module_state()["0.weight"].item() == network[0].weight.item()
    with pytest.raises(UsageError, match="--ema darknet: the cfg has ema_alpha=0; add --set ema_alpha=0.9998"):
        make_ema("darknet", network, Net())
    with pytest.raises(UsageError, match="which of 2000 leaves none; give --iterations of more than 2000"):
        make_ema("darknet", network, Net(max_batches=2000, ema_alpha=0.9))
