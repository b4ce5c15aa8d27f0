"""DropBlock in any network, without a [dropout] section in its cfg."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from models.darknet import Darknet
from models.layers.pointwise import DropBlockLayer
from utils.cfg.layers import Dropout
from utils.errors import UsageError


def add_dropblock(network: Darknet, probability: float, side: int) -> None:
    """Drop blocks of what the last convolution before each head reads, in training, in place.

    The cfg, the numbers of its layers and the state dict stay as they are, so that weights fit with and without it.

    Args:
        probability: that a cell is dropped, once the block has grown to its full size.
        side: of the block, in cells.

    Raises:
        UsageError: a network without heads.
    """
    if not network.heads:
        raise UsageError(f"--dropblock: {network.config.source} has no detection head; put a [dropout] into the cfg")
    for head in network.heads:
        layer = network.layers[head.index - 1]
        section = Dropout(probability=probability, dropblock=True, dropblock_size_abs=side)
        layer.add_module("dropblock", DropBlockLayer(section))
        layer.register_forward_pre_hook(_drop)


def _drop(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.dropblock(inputs[0]), *inputs[1:])
