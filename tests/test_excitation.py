"""Assisted excitation by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.darknet import Darknet
from models.layers.excitation import AssistedExcitation, covered
from utils.cfg import parse_cfg
from utils.structures import Targets

NET = "[net]\nwidth=32\nheight=16\nchannels=3\nbatch=4\nmax_batches=100\n"
CONV = "[convolutional]\nfilters=8\nsize=3\npad=1\nstride=4\nactivation=leaky\n"
HEAD = "[convolutional]\nfilters=7\nactivation=linear\n[yolo]\nclasses=2\nnum=1\nanchors=8,8\n"


def targets_of(*boxes: tuple[int, float, float, float, float], crowd: bool = False) -> Targets:
    rows = torch.tensor(boxes)
    image = rows[:, 0].long()
    return Targets(image, torch.zeros_like(image), rows[:, 1:], torch.full_like(image, crowd, dtype=torch.bool))


def test_cells_a_box_touches() -> None:
    targets = targets_of((1, 5.0, 4.0, 12.5, 8.0), (1, 4.0, 4.0, 8.0, 8.0), (0, -9.0, 10.0, 3.0, 99.0))
    found = covered(targets, (16, 32), (2, 4, 8))  # cells of 4 pixels
    wanted = torch.zeros(2, 4, 8).bool()
    wanted[1, 1, 1:4] = True  # 5 to 12.5 touches columns 1 to 3, 4 to 8 is row 1
    wanted[0, 2:, 0] = True
    assert torch.equal(found, wanted)
    assert not covered(targets_of((0, 5.0, 4.0, 12.5, 8.0), crowd=True), (16, 32), (2, 4, 8)).any()
    assert not covered(Targets(*(part[:0] for part in targets)), (16, 32), (2, 4, 8)).any()


@pytest.mark.parametrize(
    ("duration", "iteration", "strength"),
    [(1, 0, 2), (1, 50, 1), (1, 100, 0), (20, 0, 2), (20, 5, 1 + math.sqrt(0.5)), (20, 20, 0), (20, 21, 0)],
)
def test_it_fades(duration: int, iteration: int, strength: float) -> None:
    layer = AssistedExcitation(duration)
    layer.begin(iteration, 100, None, (16, 32))
    assert layer.strength == pytest.approx(strength, abs=1e-12)


def test_the_mean_is_added_inside_boxes_as_a_constant() -> None:
    layer = AssistedExcitation(1)
    layer.begin(50, 100, targets_of((0, 4.0, 0.0, 8.0, 4.0)), (8, 8))
    x = torch.tensor([[[[1.0, 2], [3, 4]], [[5, 10], [7, 8]]]], requires_grad=True)  # cells of 4 pixels
    y = layer(x)
    assert y.tolist() == [[[[1, 8], [3, 4]], [[5, 16], [7, 8]]]]  # the mean of 2 and 10 in the upper right
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_network_excites_its_layer_in_training_with_the_truth() -> None:
    network = Darknet(parse_cfg(NET + CONV + "assisted_excitation=1\n" + HEAD))
    plain = Darknet(parse_cfg(NET + CONV + HEAD))
    plain.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 16, 32)
    targets = targets_of((0, 8.0, 4.0, 16.0, 12.0))  # columns 2, 3 and rows 1, 2 of the 4 x 8 map
    (calm,) = plain(images)
    assert torch.equal(network(images)[0], calm)
    assert torch.equal(network.eval()(images, targets)[0], calm)
    (excited,) = network.train()(images, targets)
    features = plain.layers[0](images)
    features[:, :, 1:3, 2:4] += 2 * features[:, :, 1:3, 2:4].mean(1, keepdim=True)
    torch.testing.assert_close(excited, plain.layers[1](features))
    network.seen = 4 * 100
    torch.testing.assert_close(network(images, targets)[0], calm)
