"""How long an image takes, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Speed:
    """Milliseconds for one image, of the process that runs the network.

    ``loading`` is the wait for decoded and resized images: with ``--workers`` they are made ready alongside.
    """

    loading: float
    network: float
    postprocess: float
    images_per_second: float


class Stopwatch:
    """Seconds between laps; on a GPU a lap ends when its work is done, not when it is queued."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def speed_of(spent: Sequence[Mapping[str, float]], images: int) -> Speed:
    """The speed of processes that shared ``images`` and spent so many seconds in each stage."""
    each = {stage: 1000 * sum(seconds[stage] for seconds in spent) / images for stage in spent[0]}
    slowest = max(sum(seconds.values()) for seconds in spent)
    return Speed(**each, images_per_second=images / slowest)
