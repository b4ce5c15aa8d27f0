"""How a training steps where neither flags nor recipe say: what the network's depth and the number of images call for.

Darknet's regime, SGD at the cfg's rate with batch norms that remember a hundred iterations, is made for half a million
steps. In the few thousand that a small data set has, a shallow network learns with it and a deep one does not; see
benchmarks/results/deep_networks.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.arguments import TrainFlags
from training.schedule.plan import SMALL_DATASET
from utils.cfg import Config
from utils.cfg.layers import Convolutional

DEEP = 40  # batch-normalised convolutions; yolov4-tiny has 19, resnet50 53, yolov4 107
DEEP_CLIP = 10.0  # norm of the gradient of one image
PRECISE_BN = 200  # images


@dataclass(frozen=True)
class Regime:
    """What becomes of the gradients, and of the statistics of batch norms.

    Attributes:
        optimizer: a kind that `training.optim.make_optimizer` knows.
        clip_gradient: the largest norm; None for any.
        precise_bn: images that the statistics of batch norms are measured on before each evaluation; 0 takes the
            running ones.
        by_depth: whether the depth chose the optimiser, which wants a rate of its own.
    """

    optimizer: str = "cfg"
    clip_gradient: float | None = None
    precise_bn: int = 0
    by_depth: bool = False


def depth(config: Config) -> int:
    """The number of batch-normalised convolutions."""
    return sum(isinstance(layer, Convolutional) and bool(layer.batch_normalize) for layer in config.layers)


def is_deep(config: Config) -> bool:
    """Whether rounding and lagging statistics grow so far through the network that Darknet's regime learns little."""
    return depth(config) > DEEP


def choose_regime(
    args: TrainFlags, config: Config, images: int, *, fine_tuning: bool = False
) -> tuple[Regime, tuple[str, ...]]:
    """What ``args``, the flags of train.py, say, and for what they leave open what ``config`` and ``images`` call for.

    Args:
        images: for training.
        fine_tuning: the network is a trained detector; its optimiser stays the cfg's.

    Returns:
        The regime, and a line for people where something was chosen.
    """
    deep = is_deep(config)
    adaptive = deep and images < SMALL_DATASET and args.optimizer is None and not fine_tuning
    clip = DEEP_CLIP * adaptive if args.clip_gradient is None else args.clip_gradient
    precise = PRECISE_BN * deep if args.precise_bn is None else args.precise_bn
    chosen = [
        *(["AdamW"] if adaptive else []),
        *([f"gradients up to a norm of {clip:g}"] if adaptive and args.clip_gradient is None else []),
        *([f"batch norms measured on {precise} images"] if deep and args.precise_bn is None else []),
    ]
    regime = Regime("adamw" if adaptive else args.optimizer or "cfg", clip or None, precise, adaptive)
    if not chosen:
        return regime, ()
    return regime, (f"{depth(config)} convolutions deep: {', '.join(chosen)} (--recipe darknet: as Darknet)",)


def regime_of(saved: Mapping[str, Any], args: TrainFlags) -> Regime:
    """The regime of the run whose checkpoint is ``saved``; where it knows none, that of its flags."""
    if "regime" in saved:
        return Regime(**saved["regime"])
    return Regime(args.optimizer or "cfg", args.clip_gradient or None, args.precise_bn or 0)
