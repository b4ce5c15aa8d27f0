"""models.losses.rejection: by hand, with the rolling numbers in comments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.darknet import Darknet
from models.losses.rejection import LabelRejection
from models.losses.result import Losses
from utils.cfg import parse_cfg

HEAD = """
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=8,8
num=1
classes=1
"""


def rejection(keys: str) -> LabelRejection:
    net = "[net]\nbatch=2\nwidth=32\nheight=32\nchannels=3\nmax_batches=100\n"
    network = Darknet(parse_cfg(net + keys + HEAD))
    return LabelRejection(lambda raws, targets: linear_loss(raws), network)


def linear_loss(raws: list[Tensor]) -> Losses:
    """A loss whose gradient is 1, 2, 3 ... whatever the heads say."""
    slope = torch.arange(1.0, 1 + raws[0].numel()).view_as(raws[0])
    nothing = torch.zeros(())
    return Losses((raws[0] * slope).sum() + 7, nothing, nothing, nothing, nothing, nothing)


def test_before_its_time_nothing_is_rejected() -> None:
    reject = rejection("num_sigmas_reject_badlabels=1\nequidistant_point=90")
    reject.network.seen = 2 * 75
    raw = torch.zeros(1, 4, requires_grad=True)
    reject([raw], None).total.backward()
    assert raw.grad.tolist() == [[1, 2, 3, 4]]
    assert vars(reject.rolling) == dict.fromkeys(("largest", "mean", "deviation", "threshold"), 0.0)


def test_the_largest_deltas_are_rejected_by_deviations() -> None:
    reject = rejection("num_sigmas_reject_badlabels=2")
    reject.rolling.largest, reject.rolling.mean, reject.rolling.deviation = 8.0, 1.0, 1.0
    delta = torch.tensor([0.0, -1, 2, -6, 8])
    # largest .99 * 8 + .01 * 8 = 8; mean .99 + .01 * 17 / 4 = 1.0325
    # deviation: sizes - mean are -.0325, .9675, 4.9675, 6.9675: rms 4.306, rolling .99 + .04306 = 1.03306
    # final = 1.0325 + 2 * 1.03306 = 3.09862; at 90 of 100, 15 / 75 past: 8 - .2 * 4.90138 = 7.01972
    assert reject.thinned(delta, 90).tolist() == [0, -1, 2, -6, 0]
    assert reject.rolling.deviation == pytest.approx(1.03306, abs=1e-5)


def test_the_percentage_moves_its_threshold() -> None:
    reject = rejection("badlabels_rejection_percentage=1")
    delta = torch.cat((torch.full((599,), 0.5), torch.tensor([-2.0])))
    assert torch.equal(reject.thinned(delta, 80), delta)  # the threshold starts at the largest: none above
    assert reject.rolling.threshold == pytest.approx(1.99)  # none is less than 1 %
    thin = reject.thinned(delta, 81)
    assert thin[-1] == 0 and torch.equal(thin[:-1], delta[:-1])
    assert reject.rolling.threshold == pytest.approx(1.98)  # 6 entries of 600 are 1 %: not more
    reject.thinned(torch.cat((delta, delta[-1:])), 82)
    assert reject.rolling.threshold == pytest.approx(1.99)  # 12 of 601 are more


def test_after_the_equidistant_point_small_deltas_are_left_out() -> None:
    reject = rejection("equidistant_point=50")
    reject.rolling.mean = reject.rolling.largest = 1.0
    # mean .99 + .01 * 1 = 1; half way from 50 to 100: threshold 1.4 * .5 * 1 = .7
    assert reject.thinned(torch.tensor([0.6, -0.8, 1.6]), 75).tolist() == pytest.approx([0, -0.8, 1.6])


def test_value_and_remaining_gradient_are_the_criterions() -> None:
    reject = rejection("num_sigmas_reject_badlabels=.001")
    reject.network.seen = 2 * 99
    raw = torch.randn(1, 8, requires_grad=True)
    losses = reject([raw * 3], None)
    assert losses.total.item() == pytest.approx(linear_loss([raw * 3]).total.item())
    (losses.total * 2).backward()
    gradient = raw.grad[0] / 6
    assert gradient[0] == 1 and gradient[-1] == 0 and set((gradient / torch.arange(1.0, 9)).tolist()) <= {0.0, 1.0}


def test_a_head_without_deltas_is_left_alone() -> None:
    reject = rejection("equidistant_point=1")
    assert torch.equal(reject.thinned(torch.zeros(3), 50), torch.zeros(3))
    assert reject.rolling.mean == 0


def test_what_is_remembered_goes_into_a_checkpoint() -> None:
    first, second = rejection("num_sigmas_reject_badlabels=2"), rejection("num_sigmas_reject_badlabels=2")
    first.thinned(torch.randn(50), 90)
    second.load_state_dict(first.state_dict())
    delta = torch.randn(50)
    assert torch.equal(first.thinned(delta, 91), second.thinned(delta, 91))
    assert first.state_dict() == second.state_dict() and first.state_dict()["mean"] > 0
