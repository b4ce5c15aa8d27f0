"""Means of a few runs with 95 % intervals, and differences of runs paired by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Student's t that 97.5 % lie below, for 1, 2, ... degrees of freedom
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T975 += (2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)


@dataclass(frozen=True)
class Estimate:
    """A mean and how far its 95 % interval reaches either way; the margin of a single value is None."""

    mean: float
    margin: float | None
    count: int

    def text(self, *, signed: bool = False) -> str:
        """Such as ``0.512 ± 0.034``; with ``signed`` a difference as ``+0.004 [-0.010, +0.018]``."""
        if not signed:
            return f"{self.mean:.3f}" + (f" ± {self.margin:.3f}" if self.margin is not None else "")
        if self.margin is None:
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.mean - self.margin:+.3f}, {self.mean + self.margin:+.3f}]"

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.margin is not None and abs(self.mean) > self.margin


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of ``values`` with Student's interval, which takes them as independent and normal."""
    count = len(values)
    if count < 2:
        return Estimate(statistics.mean(values), None, count)
    t = _T975[min(count - 1, len(_T975)) - 1]  # beyond the table its last value: a little too wide, by 6 % at most
    return Estimate(statistics.mean(values), t * statistics.stdev(values) / math.sqrt(count), count)


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> list[float]:
    """``first - second`` of each seed that both have."""
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
