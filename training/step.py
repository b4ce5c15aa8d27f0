"""One optimiser step: its mini-batches, their images as the network wants them, and what becomes of the gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from training.layer_updates import LayerUpdates, drop_not_finite
from training.state import TrainingState
from training.task import TrainingBatch
from utils.errors import Diverged

_SHOWN_NAMES = 8
Minibatch = TypeVar("Minibatch", bound=TrainingBatch)


def in_steps(loader: Iterable[Minibatch], subdivisions: int) -> Iterator[list[Minibatch]]:
    """The mini-batches of each optimiser step, over which gradient accumulation goes (Darknet's ``subdivisions``)."""
    mini_batches = iter(loader)
    while batches := list(itertools.islice(mini_batches, subdivisions)):
        yield batches


def to_input(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float in [0, 1] on ``device``, channels last."""
    images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
    return images.float().div_(255)


def step(
    state: TrainingState, updates: LayerUpdates, clip_norm: float | None, batches: Sequence[TrainingBatch]
) -> None:
    """One optimiser step from the gradients accumulated over ``batches``."""
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


def check_loss(terms: Mapping[str, float], iteration: int, batches: Sequence[TrainingBatch]) -> None:
    """Refuse a loss that is not finite.

    Args:
        terms: ``loss``, and what it is made of for the message.
        iteration: optimiser steps done.
        batches: the mini-batches of the step.

    Raises:
        Diverged: with the parts and the images.
    """
    if not math.isfinite(terms["loss"]):
        parts = ", ".join(f"{name} {term:.3g}" for name, term in terms.items() if name != "loss")
        raise _diverged(iteration, f"the loss is {terms['loss']}" + (f" ({parts})" if parts else ""), batches)


def check_gradient(norm: Tensor, iteration: int, batches: Sequence[TrainingBatch]) -> None:
    """Refuse a gradient whose ``norm`` is not finite; arguments and errors as for `check_loss`."""
    if not torch.isfinite(norm):
        raise _diverged(iteration, f"the gradient's norm is {norm.item()}", batches)


def _diverged(iteration: int, what: str, batches: Sequence[TrainingBatch]) -> Diverged:
    """The end of a training, with the images of the step that was not taken."""
    names = [name for batch in batches for name in batch.names]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
    return Diverged(
        f"iteration {iteration + 1}: {what} on {shown}; lower learning_rate or check these images; "
        "last.pt, if there is one, is from before"
    )
