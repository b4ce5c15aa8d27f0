"""Darknet's loss for a network with heads of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.darknet import Darknet
from models.graph import absolute
from models.heads.gaussian import GaussianYoloHead
from models.heads.region import RegionHead
from models.heads.yolo import YoloHead
from models.losses.contrastive import ContrastiveLoss
from models.losses.darknet import DarknetLoss
from models.losses.gaussian import GaussianLoss
from models.losses.region import RegionLoss
from models.losses.result import Losses
from utils.errors import UsageError
from utils.structures import Targets

Loss = Callable[[Sequence[Tensor], Targets], Losses]


@dataclass(frozen=True)
class MixedLoss:
    """Several losses, each of some of the raw maps that a network puts out in training.

    Attributes:
        parts: each loss, and the positions of its maps.
    """

    parts: tuple[tuple[Loss, tuple[int, ...]], ...]

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch: the sum of all gradients, the mean of all costs, as Darknet has it.

        Args:
            raws: the maps in cfg order.
            targets: the truth in pixels of the network input, on any device.
        """
        count = sum(len(positions) for _, positions in self.parts)
        if len(raws) != count:
            raise ValueError(f"MixedLoss: got {len(raws)} raw maps (wanted {count}, one for each head or embedding)")
        found = [loss([raws[position] for position in positions], targets) for loss, positions in self.parts]
        shares = [len(positions) / count for _, positions in self.parts]
        total = torch.stack([losses.total for losses in found]).sum()
        value = _weighted([losses.total.detach() for losses in found], shares)
        positives = torch.stack([losses.positives for losses in found])
        ious = torch.stack([losses.mean_iou for losses in found])
        return Losses(
            total=total + (value - total.detach()),  # its gradient is that of the sum, its value the mean
            box=_weighted([losses.box for losses in found], shares),
            objectness=_weighted([losses.objectness for losses in found], shares),
            classes=_weighted([losses.classes for losses in found], shares),
            mean_iou=(ious * positives).sum() / positives.sum().clamp(min=1),
            positives=positives.sum(),
        )


def darknet_loss(network: Darknet) -> Loss:
    """Darknet's loss for all heads of ``network``, whatever their kinds.

    Raises:
        UsageError: there is nothing to learn from boxes.
    """
    graph = network.graph
    outputs = sorted((*graph.heads, *graph.embeddings))
    if not graph.heads:
        raise UsageError(f"{network.config.source}: training: no head (wanted [yolo], [Gaussian_yolo] or [region])")
    makers: dict[type, Callable[[list], Loss]] = {
        YoloHead: DarknetLoss,
        GaussianYoloHead: GaussianLoss,
        RegionHead: lambda heads: RegionLoss(heads, lambda: network.seen),
    }
    parts = []
    for kind, make in makers.items():
        mine = [index for index in graph.heads if type(network.layers[index]) is kind]
        if mine:
            parts.append((make([network.layers[index] for index in mine]), tuple(map(outputs.index, mine))))
    if graph.embeddings:
        pairs: list[Any] = [(network.config.layers[index], _head_of(network, index)) for index in graph.embeddings]
        parts.append((ContrastiveLoss(pairs), tuple(map(outputs.index, graph.embeddings))))
    return parts[0][0] if len(parts) == 1 else MixedLoss(tuple(parts))


def _head_of(network: Darknet, index: int) -> nn.Module:
    """The head whose objects the [contrastive] layer ``index`` compares."""
    section: Any = network.config.layers[index]
    return network.layers[absolute(index, section.yolo_layer)]


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum()
