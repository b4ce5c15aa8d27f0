"""Networks: what a cfg and weights describe, and one that is ready to run.

To import this package does not import torch, for which it is enough to look at a cfg: see `models.preview`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.cfg import Config, load_cfg, parse_cfg
from utils.errors import UsageError

if TYPE_CHECKING:
    from models.loading import load_network

__all__ = ["describe_network", "load_network"]


def __getattr__(name: str) -> Any:
    """``load_network``, imported with torch when it is first asked for."""
    if name != "load_network":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models import loading

    return loading.load_network


def describe_network(cfg: str | Path | None, weights: str | Path | None) -> tuple[Config, tuple[str, ...] | None]:
    """What ``--cfg`` and ``--weights`` together say: the cfg, and the class names where the weights bring them.

    A ``.pt`` of train.py carries both; with a ``.weights`` file the cfg must be named.

    Raises:
        UsageError: nothing says which network it is.
    """
    if weights is None or Path(weights).suffix != ".pt":
        if cfg is None:
            given = "" if weights is None else f"--weights {weights} does not say which network it is of; "
            raise UsageError(f"{given}give its --cfg")
        return load_cfg(cfg), None
    from utils.checkpoint import load_checkpoint  # late: it brings torch

    checkpoint = load_checkpoint(Path(weights))
    config = parse_cfg(checkpoint["cfg"], source=f"{weights}:cfg") if cfg is None else load_cfg(cfg)
    return config, tuple(checkpoint["names"])
