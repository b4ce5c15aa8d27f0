"""The optimiser as Darknet runs it, and the learning rate as a pure function of the iteration."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.darknet import Darknet
from utils.cfg.net import Net
from utils.keyed_random import keyed_rng


def learning_rate(net: Net, iteration: int, *, seed: int = 0) -> float:
    """Darknet's `get_current_rate`: the rate of optimiser step ``iteration``, counted from 1.

    Whatever the policy, the first ``burn_in`` steps rise as (iteration / burn_in) ** power. ``sgdr`` with one cycle of
    ``max_batches`` (its default) is the plain cosine.

    Args:
        seed: for ``policy=random``, whose rate is a function of (seed, iteration).
    """
    if iteration < net.burn_in:
        return net.learning_rate * (iteration / net.burn_in) ** net.power
    return net.learning_rate * _factor(net, iteration, seed) if net.policy != "sgdr" else _warm_restarts(net, iteration)


def _factor(net: Net, iteration: int, seed: int) -> float:
    """What the policy multiplies the base rate with."""
    match net.policy:
        case "step":
            return net.scale ** (iteration // net.step)
        case "steps":
            return math.prod(scale for at, scale in zip(net.steps, net.scales, strict=True) if at <= iteration)
        case "exp":
            return net.gamma**iteration
        case "poly":
            return max(0.0, 1 - iteration / max(1, net.max_batches)) ** net.power
        case "sigmoid":
            return _logistic(-net.gamma * (iteration - net.step))
        case "random":
            return keyed_rng(seed, iteration).random() ** net.power
        case _:
            return 1.0


def _logistic(x: float) -> float:
    """1 / (1 + e^-x), without overflow on either side."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _warm_restarts(net: Net, iteration: int) -> float:
    """Cosine cycles, each ``sgdr_mult`` times as long as the one before (arXiv 1608.03983, eq. 5)."""
    start, cycle = 0, max(1, net.sgdr_cycle or net.max_batches)
    while start + cycle < iteration:
        start, cycle = start + cycle, cycle * net.sgdr_mult
    height = 0.5 * (1 + math.cos(math.pi * (iteration - start) / cycle))
    return net.learning_rate_min + (net.learning_rate - net.learning_rate_min) * height


def parameter_groups(network: Darknet, decay: float, *, decay_all: bool = False) -> list[dict[str, Any]]:
    """Parameters by weight decay and by the ``learning_rate`` multiplier of their layer.

    Weights of convolutions, connected, shortcut and implicit layers decay; biases and batch norm do not. Parameters
    that need no gradient (frozen layers) are left out, shared ones are taken once, by the first layer that has them.

    Args:
        network: has ``layers`` and ``config.layers``, index for index.
        decay_all: biases and batch norm decay too, as in Darknet's Adam.

    Returns:
        Groups for a torch optimiser; ``rate_multiplier`` is for `set_learning_rate`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for layer, section in zip(network.layers, network.config.layers, strict=True):
        for module in layer.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter in seen or not parameter.requires_grad:
                    continue
                seen.add(parameter)
                decays = decay_all or not (name == "bias" or isinstance(module, _BatchNorm))
                groups.setdefault((section.learning_rate, decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, "rate_multiplier": multiplier, "weight_decay": weight_decay}
        for (multiplier, weight_decay), parameters in groups.items()
    ]


def make_optimizer(network: Darknet, net: Net, kind: str = "cfg") -> torch.optim.Optimizer:
    """An optimiser for the loss summed over the images of a batch and divided by ``net.batch``.

    torch's fused kernels are left alone: on a CPU they read a gradient of another memory format than its weight in
    the wrong order, in silence.

    Args:
        kind: "cfg" is Darknet's SGD with momentum, or its Adam with ``adam=1``; "nesterov" is SGD with Nesterov's
            momentum; "adamw" is Adam whose decay is apart from the gradient (arXiv 1711.05101), with ``B1``, ``B2``
            and ``eps``.
    """
    rate = net.learning_rate
    adam = kind == "cfg" and net.adam
    groups = parameter_groups(network, net.decay, decay_all=adam)
    optimizer: torch.optim.Optimizer
    if adam:
        # Darknet's Adam sees the sum over the batch; its eps is meant for gradients that much larger
        optimizer = torch.optim.Adam(groups, lr=rate, betas=(net.B1, net.B2), eps=net.eps / net.batch)
    elif kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=rate, betas=(net.B1, net.B2), eps=net.eps)
    else:
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=net.momentum, nesterov=kind == "nesterov")
    set_learning_rate(optimizer, rate)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group in place, times its layers' multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_multiplier"]
