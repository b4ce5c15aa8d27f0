"""What single layers of a cfg want of an optimiser step: to be left out of it, or to have its result bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.darknet import Darknet
from utils.cfg.layers import Section


class LayerUpdates:
    """The layer keys ``dont_update``, ``burnin_update``, ``grad_centr`` and ``clip``, around an optimiser step.

    Whoever shares parameters follows the keys of the first layer that has them.

    Args:
        network: has ``layers``, ``config.layers`` index for index, and ``config.net``.
    """

    def __init__(self, network: Darknet) -> None:
        self.burn_in: int = network.config.net.burn_in
        self._layers = [
            (section, module, list(module.parameters(recurse=False)))
            for section, module in _own_modules(network)
            if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        ]
        self._normalized = {id(section) for section, module, _ in self._layers if isinstance(module, _BatchNorm)}

    def before(self, iteration: int) -> None:
        """Prepare the gradients for optimiser step ``iteration``, counted from 1; in place.

        A layer that is held loses its gradient, so that neither momentum nor weight decay touch it. A layer without
        gradient that is not held (frozen by ``stopbackward=N`` for now) gets one of zero: Darknet lets it decay.
        """
        for section, module, parameters in self._layers:
            held = iteration <= section.dont_update or iteration < section.burnin_update * self.burn_in
            for parameter in parameters:
                if held or not parameter.requires_grad:
                    parameter.grad = None
                elif parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            if self._centralizes(section, module) and not held and module.weight.requires_grad:
                module.weight.grad -= module.weight.grad.mean((1, 2, 3), keepdim=True)

    @torch.no_grad()
    def after(self) -> None:
        """Clamp the weights of layers with ``clip``, in place."""
        for section, module, _ in self._layers:
            if section.clip and not isinstance(module, _BatchNorm):
                module.weight.clamp_(-section.clip, section.clip)

    def _centralizes(self, section: Section, module: nn.Module) -> bool:
        """Gradient centralisation (arXiv 2004.01461), as in Darknet for batch-normalised convolutions only."""
        wanted = getattr(section, "grad_centr", False) and id(section) in self._normalized
        return wanted and isinstance(module, nn.Conv2d)


def freeze_weights_beside_batch_norm(network: Darknet) -> None:
    """Freeze the weights of layers with ``train_only_bn``, in place: their batch norm, or their bias, learns alone."""
    for section, module in _own_modules(network):
        if section.train_only_bn and not isinstance(module, _BatchNorm) and hasattr(module, "weight"):
            module.weight.requires_grad_(False)


@torch.no_grad()
def drop_not_finite(parameters: Iterable[nn.Parameter]) -> None:
    """Set what is NaN or infinite in gradients to zero, in place ([net] ``try_fix_nan``)."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.nan_to_num_(0, 0, 0)


def _own_modules(network: Darknet) -> Iterator[tuple[Section, Any]]:
    """(section, module) of every module with parameters of its own, each once, with the first layer that has it."""
    seen: set[nn.Parameter] = set()
    for layer, section in zip(network.layers, network.config.layers, strict=True):
        for module in layer.modules():
            own = set(module.parameters(recurse=False)) - seen
            if own:
                seen |= own
                yield section, module
