"""Mish: x tanh(softplus(x)) (arXiv 1908.08681)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import native
from models.ops.extension import fused
from models.ops.registration import below_autograd, ops


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x)) of any shape and memory format; twice differentiable, keeps only x for backward."""
    if not fused(x):
        return native.mish(x)
    if x.requires_grad and torch.is_grad_enabled():
        return ops.mish(x)
    with below_autograd():
        return ops.mish(x)
