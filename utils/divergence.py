"""Numbers that are no longer finite: noticed before they reach the weights, reported with the images of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from utils.errors import Diverged
from utils.structures import Batch

_SHOWN_NAMES = 8


def check_loss(terms: Mapping[str, float], iteration: int, batches: Sequence[Batch]) -> None:
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


def check_gradient(norm: Tensor, iteration: int, batches: Sequence[Batch]) -> None:
    """Refuse a gradient whose ``norm`` is not finite; arguments and errors as for `check_loss`."""
    if not torch.isfinite(norm):
        raise _diverged(iteration, f"the gradient's norm is {norm.item()}", batches)


def _diverged(iteration: int, what: str, batches: Sequence[Batch]) -> Diverged:
    """The end of a training, with the images of the step that was not taken."""
    names = [name for batch in batches for name in batch.names]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
    return Diverged(
        f"iteration {iteration + 1}: {what} on {shown}; lower learning_rate or check these images; "
        "last.pt, if there is one, is from before"
    )
