"""The network a training is measured by: that of its averaged weights (EMA), and the files it is kept in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.darknet import Darknet
from models.weights import save_darknet_weights
from training.precise_bn import measure_statistics
from training.state import TrainingState
from utils.atomic import write_json
from utils.checkpoint import save_checkpoint


def ema_network(
    state: TrainingState, images: Iterable[Tensor] = (), *, precision: torch.dtype = torch.float32
) -> Darknet:
    """A copy of the network with the averaged weights (EMA), on its device, ready to evaluate and to save.

    Args:
        images: mini-batches that the statistics of batch norms are measured on, see `training.precise_bn`; none takes
            the average of the running ones.
        precision: of that pass.

    Raises:
        Diverged: a weight is not finite, so that nothing of this state may be saved.
    """
    state.check_finite()
    with torch.random.fork_rng(devices=[]):  # the initial weights take no part in what the training draws
        network = Darknet(state.network.config)
    network.load_state_dict(state.ema.module_state())
    network.seen = state.iteration * network.config.net.batch
    network.to(next(state.network.parameters()).device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.freeze(state.network.frozen_layers)
    measure_statistics(network.eval(), images, precision=precision)
    return network


def save_best(
    state: TrainingState, network: Darknet, about: dict[str, Any], metrics: Mapping[str, Any], folder: Path
) -> None:
    """Write best.pt, best.weights and what was measured of them, best.json."""
    weights = {"model": network.cpu().state_dict(), "iteration": state.iteration}
    save_checkpoint(folder / "best.pt", {**about, **weights})
    save_darknet_weights(network, folder / "best.weights")
    write_json(folder / "best.json", metrics)


def save_last(state: TrainingState, network: Darknet, about: dict[str, Any], folder: Path) -> None:
    """Write last.pt, from which ``--resume`` goes on, and last.weights, those of the averaged ``network``."""
    averaged = {"ema": network.cpu().state_dict()}
    save_checkpoint(folder / "last.pt", {**about, **state.as_dict(), **averaged})
    save_darknet_weights(network, folder / "last.weights")
