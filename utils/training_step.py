"""One optimiser step: its mini-batches, their images as the network wants them, and what becomes of the gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from utils.divergence import check_gradient
from utils.layer_updates import LayerUpdates, drop_not_finite
from utils.structures import Batch
from utils.training_state import TrainingState


def in_steps(loader: Iterable[Batch], subdivisions: int) -> Iterator[list[Batch]]:
    """The mini-batches of each optimiser step."""
    mini_batches = iter(loader)
    while batches := list(itertools.islice(mini_batches, subdivisions)):
        yield batches


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float in [0, 1] on ``device``, channels last."""
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return images.float().div_(255)


def step(state: TrainingState, updates: LayerUpdates, clip_norm: float | None, batches: Sequence[Batch]) -> None:
    """One optimiser step from the gradients gathered of ``batches``."""
    parameters = list(state.network.parameters())
    state.scaler.unscale_(state.optimizer)
    if state.network.config.net.try_fix_nan:
        drop_not_finite(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
    if not state.scaler.is_enabled():  # a scaler skips such a step and scales less
        check_gradient(norm, state.iteration, batches)
    updates.before(state.iteration + 1)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    updates.after()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(state.network)
    state.iteration += 1
