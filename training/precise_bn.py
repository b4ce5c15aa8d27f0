"""Precise batch norm (arXiv 2105.07576, section 3): statistics measured anew for the weights that will use them.

Running statistics describe the weights of past iterations, and their variance is the unbiased estimate, n / (n - 1)
times what training divides by. A deep network multiplies both differences layer by layer: yolov4 after 160 iterations,
evaluated with its running statistics, finds nothing of what it has learned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.darknet import Darknet
from utils.device import autocast


@torch.no_grad()
def measure_statistics(network: Darknet, batches: Iterable[Tensor], *, precision: torch.dtype = torch.float32) -> None:
    """Give every batch norm the mean and variance of its input over ``batches``, in place; frozen layers keep theirs.

    The input is what the layers before make of it in training, where each mini-batch has statistics of its own. What
    training alone does besides (DropBlock, excitation) is left out, and no random number is drawn. The network is left
    in the mode, training or evaluation, it came in.

    Args:
        batches: images, float (B, 3, H, W) in [0, 1] on the network's device; none leave the network as it is.
        precision: what autocast computes in.
    """
    training = network.training
    network.train()  # all but frozen layers
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    network.eval()
    moments = {norm: _Moments(norm) for norm in norms}
    hooks = [norm.register_forward_pre_hook(moments[norm].add) for norm in norms]
    for norm in norms:
        norm.train()
    for images in batches:
        with autocast(images.device, precision):
            network(images)
    for hook in hooks:
        hook.remove()
    for norm in norms:
        moments[norm].store(norm)
    network.train(training)


class _Moments:
    """Sums over the values that a batch norm gets, channel by channel."""

    def __init__(self, norm: Any) -> None:
        self.count = 0  # values of a channel
        self.sum = self.squares = torch.zeros_like(norm.running_mean, dtype=torch.float64)
        self.before = norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()

    def add(self, _norm: nn.Module, inputs: tuple[Tensor]) -> None:
        """Take note of (B, C, H, W)."""
        variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3), correction=0)
        values = inputs[0].numel() // len(mean)
        self.count += values
        self.sum = self.sum + values * mean.double()
        self.squares = self.squares + values * (variance.double() + mean.double().square())

    def store(self, norm: Any) -> None:
        """Write what was measured, or without a measurement what was there before."""
        mean, variance, batches = self.before
        if self.count:
            mean = self.sum / self.count
            variance = self.squares / self.count - mean.square()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.num_batches_tracked.copy_(batches)
