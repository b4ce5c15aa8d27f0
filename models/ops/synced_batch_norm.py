"""Batch norm whose statistics are those of a mini-batch's images in all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.ops import native
from models.ops.registration import ops

_LINEAR = native.ACTIVATIONS["linear"]


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d over all processes, on any device; PyTorch's own SyncBatchNorm wants GPUs.

    Called as a module it computes in differentiable tensor operations. ``batch_norm_act`` takes the fused operators
    where ``fuses`` says that all processes have them, which keeps x alone for backward.

    Attributes:
        fuses: whether every process has the fused operators; the two ways exchange different numbers.
    """

    fuses = False
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W); the processes may hold different numbers of images."""
        if not self.training:
            return super().forward(x)
        wide = x.to(self.running_mean.dtype)
        count = _SumOverProcesses.apply(wide.new_tensor(float(x.numel() // x.shape[1])))
        mean = _SumOverProcesses.apply(wide.sum((0, 2, 3))) / count
        centred = wide - native.across_channels(mean, x)
        variance = _SumOverProcesses.apply(centred.square().sum((0, 2, 3))) / count
        self.track(mean.detach(), variance.detach(), count)
        normal = centred * native.across_channels((variance + self.eps).rsqrt(), x)
        return (normal * native.across_channels(self.weight, x) + native.across_channels(self.bias, x)).to(x.dtype)

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Take the moments (C,) of ``count`` values a channel into the running statistics."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        self.num_batches_tracked += 1


def synced_batch_norm_act(x: Tensor, norm: SyncedBatchNorm2d, code: int) -> Tensor:
    """``activation(norm(x))`` in training by the fused operators; ``code`` is one of ``native.ACTIVATIONS``."""
    mean, variance, count = _moments_of_all(x.detach(), norm.eps)
    norm.track(mean, variance, count)
    return _BatchNormAct.apply(x, mean, (variance + norm.eps).rsqrt(), norm.weight, norm.bias, code, count)


def _moments_of_all(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) and number of values a channel of the images in all processes; one exchange.

    The moments are joined about their common mean (Chan, Golub, LeVeque 1979): sums of squares would cancel.
    """
    mean, invstd = ops.bn_stats(x, None, None, 0.0, eps)
    variance = (invstd.pow(-2) - eps).clamp(min=0)
    own = torch.cat((mean, variance, mean.new_tensor([x.numel() // x.size(1)])))
    every = own.new_empty((dist.get_world_size() * own.numel(),))
    dist.all_gather_into_tensor(every, own)
    means, variances, counts = every.view(-1, own.numel()).split((mean.numel(), mean.numel(), 1), dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, variance, count


class _BatchNormAct(torch.autograd.Function):
    """Normalise and activate with statistics that depend on the images of every process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        *statistics, ctx.code, count = rest
        ctx.save_for_backward(x, *statistics, count)
        return ops.bn_act(x, *statistics, ctx.code, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With z = weight n + bias and n = (x - mean) invstd, the gradient of x is that for constant statistics,
        weight invstd dz, less weight invstd (sum(dz) + n sum(dz n)) / count with sums over all processes.
        """
        x, mean, invstd, weight, bias, count = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = ops.bn_act_backward(grad, x, mean, invstd, weight, bias, ctx.code, False)
        sums = torch.stack((grad_weight, grad_bias))
        dist.all_reduce(sums)
        slope, offset = -sums * (weight * invstd / count)
        grad_x += ops.bn_act(x, mean, invstd, slope, offset, _LINEAR, False)
        return grad_x, None, None, grad_weight, grad_bias, None, None


class _SumOverProcesses(torch.autograd.Function):
    """A sum that every process gets, so that its gradient is the sum of the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


def _summed(x: Tensor) -> Tensor:
    x = x.clone()
    dist.all_reduce(x)
    return x
