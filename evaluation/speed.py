"""How long an image takes, stage by stage, and how long all of them still will."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

STAGES = ("loading", "network", "postprocess")


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
    """Seconds spent in each stage; on a GPU a lap ends when its work is done, not when it is queued."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.spent = device, dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the seconds since the last lap as those of ``stage``."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        last, self._last = self._last, time.perf_counter()
        self.spent[stage] += self._last - last


def progress_bar(images: int, *, shown: bool) -> tqdm:
    """A bar with the time left, where the output is a terminal; it is advanced by images."""
    return tqdm(total=images, unit="image", desc="evaluating", leave=False, disable=None if shown else True)


def speed_of(spent: Sequence[Mapping[str, float]], images: int) -> Speed:
    """The speed of processes that shared ``images`` and spent so many seconds in each stage."""
    each = {stage: 1000 * sum(seconds[stage] for seconds in spent) / images for stage in spent[0]}
    slowest = max(sum(seconds.values()) for seconds in spent)
    return Speed(**each, images_per_second=images / slowest)
