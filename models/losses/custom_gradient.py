"""Give a tensor a gradient that is written down instead of derived."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.targets.darknet import Cells


class HeadDelta(torch.autograd.Function):
    """A scalar whose gradient with respect to a raw head is minus the given delta.

    The delta is dense in the objectness alone; the rest is rows at a few cells. The full map is made in the
    backward pass only, when a gradient of that size is needed in any case.
    """

    @staticmethod
    def forward(
        ctx, raw: Tensor, value: Tensor, objectness_delta: Tensor, cells: Cells, cell_delta: Tensor, entry: int = 4
    ) -> Tensor:
        """Return ``value``.

        Args:
            raw: (B, A*E, GH, GW).
            value: what the loss says it is.
            objectness_delta: (B, A, GH, GW).
            cells: U distinct places.
            cell_delta: (U, E), all entries at those places (that of the objectness included).
            entry: which of an anchor's entries is the objectness.
        """
        ctx.save_for_backward(objectness_delta, *cells, cell_delta)
        ctx.shape, ctx.entry = raw.shape, entry
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        """Spread minus the delta over a map of the head's shape."""
        objectness_delta, image, anchor, row, column, cell_delta = ctx.saved_tensors
        gradient = objectness_delta.new_zeros(ctx.shape)
        entries = gradient.unflatten(1, (objectness_delta.shape[1], -1))  # (B, A, E, GH, GW)
        entries[:, :, ctx.entry] = -grad * objectness_delta
        entries[image, anchor, :, row, column] = -grad * cell_delta
        return gradient, None, None, None, None, None


class RawDelta(torch.autograd.Function):
    """A scalar whose gradient with respect to a raw map is minus the given delta, of the same shape as the map."""

    @staticmethod
    def forward(ctx, raw: Tensor, value: Tensor, delta: Tensor) -> Tensor:
        """Return ``value``."""
        ctx.save_for_backward(delta)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Minus the delta."""
        (delta,) = ctx.saved_tensors
        return -grad * delta, None, None
