"""How long to train, in which steps: the [net] keys a data set of a given size calls for.

Darknet's cfgs carry COCO's schedule: half a million steps of 64 images, the first thousand as warm-up. On two
hundred images most of that is warm-up or never reached. For small data sets the keys that nobody gave are chosen
here, and every choice is said aloud.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

SMALL_DATASET = 10_000  # images; below, the schedule of a COCO cfg does not fit
_SMALL_BATCH = 8
_SMALL_EPOCHS = 100
_LEAST_ITERATIONS = 1000
_WARM_UP = 0.04  # of all iterations


@dataclass(frozen=True)
class Schedule:
    """The [net] keys of a cfg that a plan may change; spelt as in the cfg."""

    batch: int
    max_batches: int
    burn_in: int
    policy: str
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Values for [net] keys, and the lines that say why."""

    keys: dict[str, str]
    notes: tuple[str, ...]


def plan_training(
    cfg: Schedule, images: int, *, given: Collection[str] = (), epochs: int | None = None, iterations: int | None = None
) -> Plan:
    """Choose batch and schedule for ``images`` training images.

    Args:
        cfg: what the cfg says, after ``--set`` and ``--batch`` were applied.
        images: number of training images.
        given: [net] keys the user gave; they are never changed.
        epochs, iterations: the user's length of training, at most one of them.
    """
    small = images < SMALL_DATASET
    keys: dict[str, str] = {}
    notes: list[str] = []
    batch = cfg.batch
    if small and "batch" not in given and batch > _SMALL_BATCH:
        batch = _SMALL_BATCH
        keys["batch"] = str(batch)
        notes.append(f"{images:,} training images: batch {batch} (cfg {cfg.batch}), for more updates an epoch")
    total = _iterations(cfg, images, batch, given, epochs, iterations)
    if total != cfg.max_batches:
        keys["max_batches"] = str(total)
        notes.append(f"{total:,} iterations of {batch} images = {total * batch / images:.0f} epochs (cfg {cfg.max_batches:,})")
    if total < cfg.max_batches or small:
        _shorten(cfg, total, small, given, keys, notes)
    return Plan(keys, tuple(notes))


def _iterations(
    cfg: Schedule, images: int, batch: int, given: Collection[str], epochs: int | None, iterations: int | None
) -> int:
    if iterations is not None:
        return iterations
    if epochs is not None:
        return max(1, math.ceil(epochs * images / batch))
    if images >= SMALL_DATASET or "max_batches" in given:
        return cfg.max_batches
    return max(_LEAST_ITERATIONS, math.ceil(_SMALL_EPOCHS * images / batch))


def _shorten(
    cfg: Schedule, total: int, small: bool, given: Collection[str], keys: dict[str, str], notes: list[str]
) -> None:
    warm_up = min(cfg.burn_in, max(1, round(_WARM_UP * total)))
    if "burn_in" not in given and warm_up < cfg.burn_in:
        keys["burn_in"] = str(warm_up)
        notes.append(f"warm-up of {warm_up} iterations (cfg {cfg.burn_in:,})")
    if {"policy", "steps", "scales"} & set(given):
        return
    if small:
        keys["policy"] = "sgdr"
        notes.append(f"learning rate falls as one cosine (cfg policy {cfg.policy})")
    elif cfg.policy == "steps" and cfg.steps[-1] >= total:
        steps = [round(step * total / cfg.max_batches) for step in cfg.steps]
        keys["steps"] = ",".join(map(str, steps))
        notes.append(f"learning rate steps at {steps} (the cfg's, scaled to {total:,} iterations)")
