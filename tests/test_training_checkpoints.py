"""training.checkpoints: the network that is measured and saved has the average, and costs the training nothing."""

from __future__ import annotations

import pytest
import torch

from models.darknet import Darknet
from training.checkpoints import ema_network
from training.ema import Ema
from training.optim import make_optimizer
from training.state import TrainingState
from utils.cfg import parse_cfg
from utils.errors import Diverged

SIZE = "[net]\nwidth=8\nheight=8\nchannels=3\nbatch=4\n"
TEXT = SIZE + "[convolutional]\nbatch_normalize=1\nfilters=2\nsize=1\n[softmax]\n"


def state_after_a_step() -> TrainingState:
    """A state whose average lies half way between the weights before and after."""
    network = Darknet(parse_cfg(TEXT)).train()
    optimizer, scaler = make_optimizer(network, network.config.net), torch.amp.GradScaler("cpu", enabled=False)
    state = TrainingState(network, Ema(network, decay=0.5, ramp=0), optimizer, scaler, iteration=7)
    with torch.no_grad():
        network.layers[0].conv.weight += 2
    state.ema.update(network)
    return state


def test_it_has_the_average_and_the_training_goes_on_undisturbed() -> None:
    state = state_after_a_step()
    before = torch.get_rng_state()
    network = ema_network(state)
    assert torch.equal(torch.get_rng_state(), before)
    weight = state.network.layers[0].conv.weight
    torch.testing.assert_close(network.layers[0].conv.weight, weight - 1)
    assert network.seen == 28 and not network.training and state.network.training


def test_its_batch_norms_are_measured_on_the_images_given() -> None:
    state = state_after_a_step()
    images = torch.rand(4, 3, 8, 8)
    network = ema_network(state, [images])
    convolved = network.layers[0].conv(images)
    torch.testing.assert_close(network.layers[0].bn.running_mean, convolved.mean((0, 2, 3)))
    assert torch.equal(state.network.layers[0].bn.running_mean, torch.zeros(2))  # the training keeps its own


def test_frozen_batch_norms_keep_their_statistics() -> None:
    state = state_after_a_step()
    state.network.freeze(1)
    network = ema_network(state, [torch.rand(4, 3, 8, 8)])
    assert torch.equal(network.layers[0].bn.running_mean, torch.zeros(2))


def test_weights_that_are_not_finite_are_not_handed_on() -> None:
    state = state_after_a_step()
    state.network.layers[0].bn.running_var[0] = torch.nan
    with pytest.raises(Diverged, match="iteration 7: layers.0.bn.running_var holds NaN or infinity"):
        ema_network(state)
