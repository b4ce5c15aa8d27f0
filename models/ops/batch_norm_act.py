"""Batch norm and activation as one operation, and bias and activation for folded inference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.ops import native
from models.ops.extension import fused, fused_in_compiled
from models.ops.mish import mish
from models.ops.native import ACTIVATIONS
from models.ops.registration import compute_dtype, ops
from models.ops.synced_batch_norm import SyncedBatchNorm2d, synced_batch_norm_act


def batch_norm_act(x: Tensor, norm: nn.BatchNorm2d, activation: str) -> Tensor:
    """``activation(norm(x))``, keeping only x and two numbers a channel for backward.

    PyTorch's own pair also keeps the normalised tensor, and moves 13 tensors' worth of memory where this moves 8.
    ``norm`` stays an ordinary module: its running statistics, momentum, training flag and state_dict are used as
    they are. A SyncedBatchNorm2d takes its statistics over all processes; any other kind, and a module with hooks, is
    called as a module.

    Args:
        x: (N, C, H, W) float, contiguous or channels_last (others are copied).
        activation: one of ``ACTIVATIONS``.

    Raises:
        ValueError: an unknown activation, or one value per channel in training (as nn.BatchNorm2d).
    """
    _check(activation)
    if isinstance(norm, SyncedBatchNorm2d) and norm.training:
        if norm.fuses and _plain(norm) and fused(x):
            return synced_batch_norm_act(x, norm, ACTIVATIONS[activation])
        return _activate(norm(x), activation, inplace=True)
    if not _fusible(x, norm):
        return _activate(norm(x), activation, inplace=True)
    batch_statistics = norm.training or norm.running_mean is None
    if batch_statistics:
        tracked = norm.training and norm.track_running_stats
        momentum = _count_batch(norm) if tracked else 0.0
        running = (norm.running_mean, norm.running_var) if tracked else (None, None)
        mean, invstd = ops.bn_stats(x.detach(), *running, momentum, norm.eps)
    else:
        assert norm.running_mean is not None and norm.running_var is not None
        mean, invstd = norm.running_mean, (norm.running_var + norm.eps).rsqrt()
    return ops.bn_act(x, mean, invstd, norm.weight, norm.bias, ACTIVATIONS[activation], batch_statistics)


def bias_act(x: Tensor, bias: Tensor | None, activation: str, *, inplace: bool = False) -> Tensor:
    """``activation(x + bias)`` for a convolution whose batch norm was folded into it.

    Args:
        x: (N, C, ...) float. bias: (C,) or None.
        inplace: x may be overwritten where the gradient allows it.
    """
    _check(activation)
    wants_grad = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    # Inductor puts the others into the convolution before them, but takes more than twice the time for Mish.
    takes = fused(x) or (activation == "mish" and fused_in_compiled(x))
    if inplace and not wants_grad and takes and _dense(x):
        ops.bias_act_(x, bias, ACTIVATIONS[activation])
        return x
    if bias is not None:
        x, inplace = x + native.across_channels(bias, x).to(x.dtype), True
    return _activate(x, activation, inplace=inplace)


def _check(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} (wanted one of {', '.join(ACTIVATIONS)})")


def _activate(x: Tensor, activation: str, *, inplace: bool) -> Tensor:
    """Apply ``activation``; with ``inplace`` x may be overwritten, which happens where the gradient allows it."""
    if torch.is_grad_enabled() and x.requires_grad:
        # x is the output of an operation that keeps its input, so only what needs its own output may overwrite it.
        inplace = inplace and activation in ("leaky", "relu") and not x.is_leaf
    if activation == "mish" and not inplace:
        return mish(x)
    return native.activate(x, activation, inplace=inplace)


def _plain(norm: nn.BatchNorm2d) -> bool:
    """Whether calling ``norm`` does nothing that the operators do not."""
    hooks = norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks or norm._backward_pre_hooks
    return type(norm) in (nn.BatchNorm2d, SyncedBatchNorm2d) and not hooks


def _fusible(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    if not (_plain(norm) and x.dim() == 4 and x.size(1) == norm.num_features and fused(x)):
        return False
    # One value a channel is an error that the module words; an empty batch has no statistics to take.
    if x.numel() <= x.size(1):
        return False
    return norm.running_mean is None or norm.running_mean.dtype == compute_dtype(x.dtype)


def _count_batch(norm: nn.BatchNorm2d) -> float:
    """Count the batch in place; return the momentum, for None the weight of a plain average over all batches."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            return 1.0 / float(norm.num_batches_tracked)
    return 0.0 if norm.momentum is None else norm.momentum


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
