"""Batch norm as Darknet trains it: plain, across the mini-batches of a step, and across the processes of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ops.synced_batch_norm import SyncedBatchNorm2d
from utils.errors import UsageError

EPSILON = 1e-5
MOMENTUM = 0.01  # Darknet keeps .99 of the old statistics


def batch_norm(channels: int, *, cross_mini_batch: bool = False) -> nn.BatchNorm2d:
    """Batch norm as cuDNN computes it under Darknet; the rolling variance starts at 1, where Darknet's starts at 0."""
    kind = CrossMiniBatchNorm2d if cross_mini_batch else nn.BatchNorm2d
    return kind(channels, eps=EPSILON, momentum=MOMENTUM)


class CrossMiniBatchNorm2d(nn.BatchNorm2d):
    """YOLOv4's CmBN, ``batch_normalize=2`` (arXiv 2004.10934, figure 4): statistics gather over the ``subdivisions``.

    As in Darknet, mini-batch j normalises with the mean of the first j mini-batches' moments, and backward takes these
    for its own.

    Attributes:
        subdivisions: mini-batches a step; set by the network.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, channels: int, eps: float, momentum: float) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.subdivisions = 1
        self._gathered = 0  # mini-batches of this step so far
        self._mean = self._square = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        mean, variance = self._statistics(wide.detach())
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
            self.num_batches_tracked += 1
        # Zero in value; they carry the gradient that statistics of this mini-batch alone would have.
        own_mean = wide.mean((0, 2, 3))
        own_variance = (wide - _channels(mean)).square().mean((0, 2, 3))
        mean = mean + (own_mean - own_mean.detach())
        variance = variance + (own_variance - own_variance.detach())
        normal = (wide - _channels(mean)) * _channels((variance + self.eps).rsqrt())
        return (normal * _channels(self.weight) + _channels(self.bias)).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over the mini-batches of this step up to and with ``x``, (C,) each."""
        self._gathered = self._gathered % self.subdivisions + 1
        share = 1 / self._gathered
        mean = x.mean((0, 2, 3))
        square = x.square().sum((0, 2, 3)) / max(1, x.numel() // x.shape[1] - 1)
        square = torch.maximum(square, mean.square())
        self._mean = mean if self._gathered == 1 else self._mean.lerp(mean, share)
        self._square = square if self._gathered == 1 else self._square.lerp(square, share)
        return self._mean, (self._square - self._mean.square()).clamp(min=0)


def synchronise_batch_norm(network: nn.Module, *, fuses: bool = False) -> None:
    """Let batch norm see the mini-batches of all processes as one, in place; the state dict keeps its names.

    Args:
        fuses: whether all processes have the fused operators (``models.ops.has_fused``).

    Raises:
        UsageError: ``batch_normalize=2``, which has statistics of its own.
    """
    synced: dict[nn.Module, nn.Module] = {}  # layers may share one
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, CrossMiniBatchNorm2d):
                raise UsageError(
                    "--sync-bn: statistics gather over the subdivisions here (batch_normalize=2); choose one"
                )
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, synced.setdefault(child, _synced(child, fuses)))


def _synced(norm: nn.BatchNorm2d, fuses: bool) -> SyncedBatchNorm2d:
    """A synchronised batch norm with the very tensors of ``norm``."""
    other = SyncedBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum).train(norm.training)
    other._parameters.update(norm._parameters)
    other._buffers.update(norm._buffers)
    other.fuses = fuses
    return other


def _channels(values: Tensor) -> Tensor:
    """(C,) to (C, 1, 1)."""
    return values[:, None, None]
