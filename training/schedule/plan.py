"""How long to train, in which steps: the [net] keys a data set of a given size calls for.

Darknet's cfgs carry COCO's schedule: half a million steps of 64 images, the first thousand of them as warm-up. On
two hundred images the warm-up would never end. For small data sets the keys that nobody gave are chosen here, and
every choice is said aloud.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

SMALL_DATASET = 10_000  # images; below, the schedule of a COCO cfg does not fit
SMALL_BATCH = 8
SMALL_EPOCHS = 100
LEAST_ITERATIONS = 1000
WARM_UP = 0.04  # of all iterations,
LEAST_WARM_UP = 100  # but no fewer iterations than this, unless they are
MOST_WARM_UP = 0.2  # of all iterations
LAST_RATE = 0.01  # of the learning rate, at the end of a cosine
FINE_TUNING_RATE = 0.001  # of trained detectors; twice as much diverged, see docs/training.md
ADAMW_RATE = 0.001  # of deep networks, see training.schedule.regime
MEMORY_FOR_ACTIVATIONS = 5e9  # bytes; a mini-batch is kept below


@dataclass(frozen=True)
class Schedule:
    """The [net] keys of a cfg that a plan may change, spelt as in the cfg."""

    batch: int
    subdivisions: int
    max_batches: int
    burn_in: int
    learning_rate: float
    policy: str
    steps: tuple[int, ...]
    learning_rate_min: float = 0.00001


@dataclass
class Plan:
    """Values for [net] keys, and the lines that say why."""

    keys: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, note: str, **keys: object) -> None:
        """Decide ``keys`` and say so."""
        self.keys.update({key: str(value) for key, value in keys.items()})
        self.notes.append(note)


@dataclass(frozen=True)
class Request:
    """What was asked of a schedule.

    Attributes:
        given: [net] keys the user gave; they are never changed.
        epochs, iterations: the length of the training, at most one of them.
        nominal_batch: the batch that the learning rates of the cfg are meant for; 0 is whatever comes.
        small_batch: the largest that is chosen for a small data set.
        warm_up: the share of the iterations for it.
    """

    given: Collection[str] = ()
    epochs: int | None = None
    iterations: int | None = None
    nominal_batch: int = 0
    small_batch: int = SMALL_BATCH
    warm_up: float | None = None


def plan_training(
    cfg: Schedule,
    images: int,
    request: Request = Request(),
    *,
    bytes_per_image: float = 0.0,
    fine_tuning: bool = False,
    by_depth: bool = False,
) -> Plan:
    """Choose batch and schedule for ``images`` training images.

    Args:
        cfg: what the cfg says, after ``--set`` and ``--batch`` were applied.
        images: number of training images.
        request: what the user asks for.
        bytes_per_image: memory that training needs for each image of a mini-batch.
        fine_tuning: the network is a trained detector, and nobody gave a learning rate.
        by_depth: the network is deep and steps by AdamW, which the rate of ``cfg`` is not meant for.
    """
    plan = Plan()
    small = images < SMALL_DATASET
    batch, given = cfg.batch, request.given
    parts = cfg.subdivisions if "subdivisions" in given else 1
    if small and "batch" not in given and batch > request.small_batch:
        batch = parts * math.ceil(request.small_batch / parts)
        plan.set(f"batch {batch} for more updates an epoch (cfg: {cfg.batch})", batch=batch)
    _choose_subdivisions(plan, cfg, batch, small, given, bytes_per_image)
    total = _iterations(cfg, images, batch, request)
    if total != cfg.max_batches:
        rounds = total * batch / images
        plan.set(
            f"{total:,} iterations of {batch} images: {rounds:.1f} epochs (cfg: {cfg.max_batches:,})", max_batches=total
        )
    _choose_warm_up(plan, cfg, total, given, request.warm_up)
    cfg = _scale_rate(plan, cfg, batch, request.nominal_batch)
    if fine_tuning:
        cfg = _limit_rate(plan, cfg)
    if by_depth and "learning_rate" not in given:
        cfg = _adamw_rate(plan, cfg)
    _choose_policy(plan, cfg, total, small, given)
    return plan


def _iterations(cfg: Schedule, images: int, batch: int, request: Request) -> int:
    if request.iterations is not None:
        return request.iterations
    if request.epochs is not None:
        return max(1, math.ceil(request.epochs * images / batch))
    if images >= SMALL_DATASET or "max_batches" in request.given:
        return cfg.max_batches
    return max(LEAST_ITERATIONS, math.ceil(SMALL_EPOCHS * images / batch))


def _choose_subdivisions(
    plan: Plan, cfg: Schedule, batch: int, small: bool, given: Collection[str], bytes_per_image: float
) -> None:
    """As few passes as memory allows: batch statistics are of one mini-batch."""
    if "subdivisions" in given or not small:
        return
    fitting = max(1, int(MEMORY_FOR_ACTIVATIONS // max(bytes_per_image, 1.0)))
    subdivisions = next(parts for parts in range(1, batch + 1) if batch % parts == 0 and batch // parts <= fitting)
    if subdivisions != cfg.subdivisions:
        plan.set(
            f"subdivisions {subdivisions}: {batch // subdivisions} images at a time (cfg: {cfg.subdivisions})",
            subdivisions=subdivisions,
        )


def _choose_warm_up(plan: Plan, cfg: Schedule, total: int, given: Collection[str], share: float | None) -> None:
    if share is not None:
        wanted = round(share * total)
        return plan.set(f"warm-up of {wanted} iterations, {share:.1%} of all (cfg: {cfg.burn_in:,})", burn_in=wanted)
    wanted = min(max(LEAST_WARM_UP, round(WARM_UP * total)), round(MOST_WARM_UP * total))
    warm_up = min(cfg.burn_in, max(1, wanted))
    if "burn_in" not in given and warm_up < cfg.burn_in:
        plan.set(f"warm-up of {warm_up} iterations (cfg: {cfg.burn_in:,})", burn_in=warm_up)


def _scale_rate(plan: Plan, cfg: Schedule, batch: int, nominal: int) -> Schedule:
    """The rates in proportion to the batch (arXiv 1706.02677, section 2.1)."""
    if nominal in (0, batch):
        return cfg
    rate, least = (value * batch / nominal for value in (cfg.learning_rate, cfg.learning_rate_min))
    plan.set(
        f"learning rate {rate:g}: {cfg.learning_rate:g} is meant for batches of {nominal}, these are of {batch}",
        learning_rate=f"{rate:.6g}",
        learning_rate_min=f"{least:.6g}",
    )
    return replace(cfg, learning_rate=rate, learning_rate_min=least)


def _limit_rate(plan: Plan, cfg: Schedule) -> Schedule:
    """What is learned already is not to be thrown over by the gradients of new heads."""
    if cfg.learning_rate <= FINE_TUNING_RATE:
        plan.notes.append(f"fine-tuning a trained detector: learning rate {cfg.learning_rate:g}, low enough as it is")
        return cfg
    least = cfg.learning_rate_min * FINE_TUNING_RATE / cfg.learning_rate
    plan.set(
        f"fine-tuning a trained detector: learning rate {FINE_TUNING_RATE:g} instead of {cfg.learning_rate:g}",
        learning_rate=f"{FINE_TUNING_RATE:.6g}",
        learning_rate_min=f"{least:.6g}",
    )
    return replace(cfg, learning_rate=FINE_TUNING_RATE, learning_rate_min=least)


def _adamw_rate(plan: Plan, cfg: Schedule) -> Schedule:
    """A rate for steps whose size does not follow the gradient's."""
    plan.set(f"learning rate {ADAMW_RATE:g} for AdamW (cfg: {cfg.learning_rate:g})", learning_rate=f"{ADAMW_RATE:.6g}")
    return replace(cfg, learning_rate=ADAMW_RATE)


def _choose_policy(plan: Plan, cfg: Schedule, total: int, small: bool, given: Collection[str]) -> None:
    if {"policy", "steps", "scales"} & set(given):
        return
    if small:
        last = LAST_RATE * cfg.learning_rate
        plan.set(
            f"learning rate {cfg.learning_rate:g} falls along a cosine to {last:.2g} (cfg policy: {cfg.policy})",
            policy="sgdr",
            sgdr_cycle=total,
            learning_rate_min=f"{last:.6g}",
        )
    elif cfg.policy == "steps" and cfg.steps[-1] >= total:
        steps = [round(step * total / cfg.max_batches) for step in cfg.steps]
        plan.set(
            f"learning rate steps at {steps}, the cfg's scaled to {total:,} iterations", steps=",".join(map(str, steps))
        )
