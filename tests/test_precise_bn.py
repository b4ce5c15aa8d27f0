"""training.precise_bn: statistics that belong to the weights, which running ones in a deep network do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.darknet import Darknet
from tests.narrow import narrow
from training.precise_bn import measure_statistics
from utils.cfg import load_cfg, parse_cfg, with_classes, with_size

HEADER = "[net]\nwidth=8\nheight=8\nchannels=3\n"
CONV = "[convolutional]\nbatch_normalize={kind}\nfilters=4\nsize=1\nactivation=mish\n"


def network_of(*kinds: int) -> Darknet:
    torch.manual_seed(0)
    return Darknet(parse_cfg(HEADER + "".join(CONV.format(kind=kind) for kind in kinds) + "[softmax]\n"))


@pytest.mark.parametrize("kind", [1, 2])
def test_mean_and_variance_of_all_values(kind: int) -> None:
    network = network_of(kind, kind)
    draw = torch.Generator().manual_seed(0)
    batches = [torch.rand(count, 3, 8, 8, generator=draw) for count in (4, 4, 2)]  # the last is smaller
    measure_statistics(network.eval(), batches)
    first = network.layers[0]
    values = torch.cat([first.conv(images) for images in batches]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(first.bn.running_mean, values.mean(1))
    torch.testing.assert_close(first.bn.running_var, values.var(1, correction=0))


def test_it_leaves_mode_and_random_numbers_as_they_were() -> None:
    network, state = network_of(1).train(), torch.get_rng_state()
    measure_statistics(network, [torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))])
    assert network.training and network.layers[0].bn.training
    assert torch.equal(torch.get_rng_state(), state)
    measure_statistics(network.eval(), [])
    assert not network.training and not network.layers[0].bn.training


def test_without_images_and_in_frozen_layers_nothing_changes() -> None:
    network = network_of(1, 1)
    network.freeze(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    measure_statistics(network, [])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    measure_statistics(network, [torch.rand(2, 3, 8, 8)])
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layers.1.bn.running_mean", "layers.1.bn.running_var"}


def _apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The relative difference of the last head."""
    return float((ours[-1] - theirs[-1]).norm() / theirs[-1].norm())


@torch.no_grad()
def test_a_deep_network_trained_briefly_is_in_evaluation_what_it_is_in_training() -> None:
    torch.manual_seed(0)
    config = narrow(with_classes(with_size(load_cfg("yolov4-mish.cfg"), (64, 64)), 1), 16)
    network = Darknet(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001)
    images = torch.rand(8, 3, 64, 64)
    for _ in range(10):
        with torch.enable_grad():
            sum(raw.square().mean() for raw in network(images)).backward()
        optimizer.step()
        optimizer.zero_grad()
    lagging = _apart(network.eval()(images), network.train()(images))
    measure_statistics(network.eval(), [images])
    measured = _apart(network(images), network.train()(images))
    assert lagging > 0.5  # else this test would show nothing
    assert measured < 0.001
