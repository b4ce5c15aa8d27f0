"""training.regularisers.adversarial: deltas by hand, what changes and what must not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from models.darknet import Darknet
from models.losses.darknet import DarknetLoss
from training.regularisers.adversarial import SelfAdversary, alter, vanishing_delta
from utils.cfg import parse_cfg
from utils.errors import UsageError
from utils.structures import Targets

NET = "[net]\nwidth=64\nheight=32\nchannels=3\nbatch=2\nburn_in=10\nmax_batches=100\n"
BODY = """
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky
[convolutional]
filters=14
size=1
activation={activation}
[yolo]
mask=0,1
anchors=8,8, 16,24
num=2
classes=2
{head}
"""


def network(net: str = "", activation: str = "linear", head: str = "") -> Darknet:
    torch.manual_seed(0)
    return Darknet(parse_cfg(NET + net + BODY.format(activation=activation, head=head))).train()


def one_prediction(head: str, entries: list[float]) -> list[float]:
    """The delta (7,) of the first anchor in a grid of one cell, whose input is 8x8 pixels."""
    yolo = network(head=head).heads[0]
    raw = torch.zeros(1, 14, 1, 1)
    raw[0, :7, 0, 0] = torch.tensor(entries)
    return vanishing_delta(yolo, raw)[0, :7, 0, 0].tolist()


def test_a_cell_without_object_learns_to_have_less_objectness() -> None:
    # sigmoid(-2) = .1192; no class times .1192 exceeds .25; the box is 8 e^.6 by 8 e^.2 of 8x8: side e^.4 = 1.4918
    delta = one_prediction("obj_normalizer=2", [1.0, 1.0, 0.6, 0.2, -2.0, 5.0, 5.0])
    assert delta == pytest.approx([0, 0, 0, 0, 1.4918 * 2 * -0.1192, 0, 0], abs=1e-4)


def test_a_cell_that_shows_an_object_learns_the_opposite() -> None:
    # sigmoid: x .7311, y .5, objectness .8808, classes .8808 (product .7758) and .1192 (.105, below .25)
    # scale_x_y 1.2: x .7311 * 1.2 - .1 = .7773, y .5
    delta = one_prediction("scale_x_y=1.2", [1.0, 0.0, 0.6, 0.2, 2.0, 2.0, -2.0])
    wanted = [-0.7773, -0.5, -0.6, -0.2, -0.8808, -0.8808, 0.8808]
    assert delta == pytest.approx([1.4918 * value for value in wanted], abs=1e-4)


def test_new_coords_need_no_sigmoid() -> None:
    # box 4 * .25 * 8 = 8 wide and high: side 1; objectness .5, classes .9 (.45) and .5 (exactly .25: neither)
    delta = one_prediction("new_coords=1", [0.1, 0.2, 0.5, 0.5, 0.5, 0.9, 0.5])
    assert delta == pytest.approx([-0.1, -0.2, -0.5, -0.5, -0.5, -0.9, 0], abs=1e-6)


def snapshot(net: Darknet) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("head", [{}, {"activation": "logistic", "head": "new_coords=1"}])
def test_images_move_and_the_network_does_not(head: dict[str, str]) -> None:
    net = network(**head)
    images = torch.rand(2, 3, 32, 64)
    before, original = snapshot(net), images.clone()
    altered = alter(net, images, 20.0)
    assert not torch.equal(altered, images) and torch.equal(images, original)
    assert altered.min() >= 0 and altered.max() <= 1 and not altered.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training and all(module.training for module in net.modules())


def test_the_step_is_the_plain_gradient_of_the_deltas() -> None:
    net = network()
    images = 0.25 + torch.rand(2, 3, 32, 64) / 2
    small, large = (alter(net, images, strength) - images for strength in (1e-3, 2e-3))
    torch.testing.assert_close(large, 2 * small, rtol=1e-2, atol=1e-6)
    alone = alter(net, images[:1], 1e-3) - images[:1]
    torch.testing.assert_close(alone, small[:1], rtol=1e-2, atol=1e-6)  # an image does not depend on its neighbours


def test_the_true_boxes_become_harder() -> None:
    net = network()
    criterion = DarknetLoss(net.heads)
    targets = Targets(
        torch.tensor([0, 1]),
        torch.tensor([0, 1]),
        torch.tensor([[10.0, 8.0, 20.0, 18.0], [30.0, 4.0, 44.0, 28.0]]),
        torch.tensor([False, False]),
    )
    images = torch.rand(2, 3, 32, 64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    for _ in range(60):  # until it finds the two objects
        criterion(net(images), targets).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for module in net.modules():  # rolling statistics of so few steps are those of the start
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        net(images)
        net.eval()
        raws = [net(alter(net, images, strength)) for strength in (0, 0.03, 0.1, 0.3)]
    losses = [criterion(raw, targets).objectness.item() for raw in raws]
    assert losses[0] < losses[1] < losses[2] < losses[3], losses
    confidence = [net.heads[0].activate(raw[0])[:, :, 4].amax(dim=(1, 2, 3)) for raw in raws]  # (B,)
    assert all((after < before).all() for before, after in itertools.pairwise(confidence)), confidence
    assert not net.training


def altered_minibatches(adversary: Callable[..., torch.Tensor], iterations: range) -> list[tuple[int, int]]:
    images = torch.full((1, 3, 32, 64), 0.5)
    return [
        (iteration, part)
        for iteration in iterations
        for part in range(2)
        if not torch.equal(adversary(images, iteration, part), images)
    ]


def test_half_of_the_mini_batches_after_the_warm_up() -> None:
    net = network("adversarial_lr=1")
    first = altered_minibatches(SelfAdversary(net, seed=1), range(0, 60))
    assert min(iteration for iteration, _ in first) > 10
    assert 30 < len(first) < 68  # of 98
    assert first == altered_minibatches(SelfAdversary(net, seed=1), range(0, 60))
    assert first != altered_minibatches(SelfAdversary(net, seed=2), range(0, 60))


def test_the_strength_grows_with_the_training() -> None:
    net = network("adversarial_lr=.01\nburn_in=0")
    adversary, images = SelfAdversary(net), torch.full((1, 3, 32, 64), 0.5)
    sums = {at: max((adversary(images, at, part) - images).abs().sum().item() for part in range(9)) for at in (20, 80)}
    assert sums[80] == pytest.approx(4 * sums[20], rel=1e-2)


def test_without_the_key_nothing_is_altered() -> None:
    images = torch.rand(1, 3, 32, 64)
    assert SelfAdversary(network())(images, 99, 0) is images


def test_other_heads_are_refused() -> None:
    text = NET + "adversarial_lr=1\n[convolutional]\nfilters=4\nsize=1\n[softmax]\n"
    with pytest.raises(UsageError, match=r"adversarial_lr=1 with no head \(wanted \[yolo\] heads only\)"):
        SelfAdversary(Darknet(parse_cfg(text)))
