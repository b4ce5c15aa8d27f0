"""The loss of a training run, by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor

from models.darknet import Darknet
from models.heads.yolo import YoloHead
from models.losses.mixed import darknet_loss
from models.losses.result import Losses
from models.losses.scaled import ScaledLoss
from models.losses.simota import SimotaLoss
from utils.errors import UsageError
from utils.structures import Targets

Criterion = Callable[[Sequence[Tensor], Targets], Losses]


def make_criterion(network: Darknet, name: str = "darknet") -> Criterion:
    """The loss ``name`` for the heads of ``network``: the raw heads and the truth of a mini-batch to `Losses`."""
    if name in ("scaled", "simota") and network.graph.embeddings:
        raise UsageError(f"--loss {name}: the cfg has [contrastive] (wanted [yolo] heads only); use --loss darknet")
    match name:
        case "darknet":
            return darknet_loss(network)
        case "scaled":
            return ScaledLoss(cast("Sequence[YoloHead]", network.heads))
        case "simota":
            return SimotaLoss(cast("Sequence[YoloHead]", network.heads))
        case _:
            raise ValueError(f"make_criterion: {name!r} (wanted darknet, scaled or simota)")
