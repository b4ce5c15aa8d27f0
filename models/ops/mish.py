"""Mish: x tanh(softplus(x)) (arXiv 1908.08681)."""

from __future__ import annotations

from torch import Tensor

from models.ops import native
from models.ops.extension import fused
from models.ops.registration import ops


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x)) of any shape and memory format; twice differentiable, keeps only x for backward."""
    return ops.mish(x) if fused(x) else native.mish(x)
