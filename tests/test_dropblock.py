"""training.regularisers.dropblock: blocks before every head, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.darknet import Darknet
from models.layers.pointwise import DropBlockLayer
from models.weights import load_darknet_weights, save_darknet_weights
from training.regularisers.dropblock import add_dropblock
from utils.cfg import parse_cfg
from utils.errors import UsageError

TEXT = """
[net]
width=64
height=64
channels=3
batch=1
max_batches=100
[convolutional]
filters=32
size=3
stride=4
pad=1
activation=linear
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=8,8
classes=1
[route]
layers=0
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=8,8
classes=1
"""


def network() -> Darknet:
    torch.manual_seed(0)
    return Darknet(parse_cfg(TEXT))


def dropped_inputs(net: Darknet) -> list[torch.Tensor]:
    """What the detection convolutions read, (1, 32, 16, 16) each."""
    read: list[torch.Tensor] = []
    for index in (1, 4):
        net.layers[index].conv.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    net(torch.rand(1, 3, 64, 64))
    return read


def test_blocks_of_the_given_side_before_every_head() -> None:
    net = network()
    add_dropblock(net, 0.9, 3)
    net.seen = 85  # the ramp is over
    first, second = dropped_inputs(net.train())
    for x in (first, second):
        zeros = (x == 0)[0]
        sides = {(int(z.any(1).sum()), int(z.any(0).sum())) for z in zeros if z.any()}
        assert sides == {(3, 3)}  # 256 places with a chance of .9 / 9 each: hardly a channel without
    assert not torch.equal(first == 0, second == 0)


def test_kept_values_make_up_for_the_dropped() -> None:
    net, whole = network(), []
    add_dropblock(net, 0.9, 3)
    net.layers[0].register_forward_hook(lambda _, __, output: whole.append(output))
    net.seen = 85
    x = dropped_inputs(net.train())[0]
    dropped = x == 0
    lost = dropped.float().mean()
    assert lost.item() == pytest.approx(9 / 256, rel=0.1)  # a block of nine cells in hardly less than every channel
    torch.testing.assert_close(x[~dropped], whole[0][~dropped] / (1 - lost))


def test_it_grows_with_the_training_and_rests_in_evaluation() -> None:
    net = network()
    add_dropblock(net, 0.9, 4)
    blocks = [module for module in net.modules() if isinstance(module, DropBlockLayer)]
    for seen, progress in ((0, 0.0), (17, 0.17)):
        net.seen = seen
        net.train()(torch.rand(1, 3, 64, 64))
        assert [block.progress for block in blocks] == [progress] * 2
    images = torch.rand(1, 3, 64, 64)
    for ours, plain in zip(net.eval()(images), network().eval()(images), strict=True):
        assert torch.equal(ours, plain)


def test_weights_fit_with_and_without(tmp_path: Path) -> None:
    net, plain = network(), network()
    add_dropblock(net, 0.1, 7)
    assert net.state_dict().keys() == plain.state_dict().keys()
    save_darknet_weights(net, tmp_path / "a.weights")
    load_darknet_weights(plain, tmp_path / "a.weights")


def test_a_network_without_heads_is_refused() -> None:
    text = "[net]\nwidth=8\nheight=8\nchannels=3\n[convolutional]\nfilters=2\nsize=1\n[softmax]\n"
    with pytest.raises(UsageError, match="has no detection head; put a \\[dropout\\] into the cfg"):
        add_dropblock(Darknet(parse_cfg(text)), 0.1, 7)
