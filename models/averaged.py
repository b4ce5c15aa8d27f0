"""The network a training is measured by: that of its averaged weights."""

from __future__ import annotations

import torch

from models.darknet import Darknet
from utils.training_state import TrainingState


def averaged_network(state: TrainingState) -> Darknet:
    """A copy of the network with the averaged weights, ready to evaluate and to save.

    Raises:
        Diverged: a weight is not finite, so that nothing of this state may be saved.
    """
    state.check_finite()
    with torch.random.fork_rng(devices=[]):  # the initial weights take no part in what the training draws
        network = Darknet(state.network.config)
    network.load_state_dict(state.ema.module_state())
    network.seen = state.iteration * network.config.net.batch
    return network.eval()
