"""When a training run stops to measure and to save."""

from __future__ import annotations

import time

_EVALUATIONS = 12  # of a run, unless an interval is given
_SAVE_SECONDS = 300  # between two checkpoints, unless an interval is given


class Intervals:
    """When to evaluate and when to save, by iterations and time.

    Args:
        total: iterations of the run.
        evaluate_every: iterations; 0 is only at the end, None a twelfth of the run.
        save_every: iterations; None is every five minutes and after each evaluation.
    """

    def __init__(self, total: int, *, evaluate_every: int | None = None, save_every: int | None = None) -> None:
        self.total = total
        self.evaluate_every = max(1, total // _EVALUATIONS) if evaluate_every is None else evaluate_every
        self.save_every = save_every
        self.saved = time.monotonic()

    def evaluation(self, iteration: int) -> bool:
        """Whether to evaluate after ``iteration``."""
        return iteration == self.total or bool(self.evaluate_every and iteration % self.evaluate_every == 0)

    def save(self, iteration: int) -> bool:
        """Whether to write a checkpoint after ``iteration``; saving takes no part in what is computed."""
        if self.save_every:
            wanted = iteration % self.save_every == 0
        else:
            wanted = time.monotonic() - self.saved > _SAVE_SECONDS or self.evaluation(iteration)
        if wanted or iteration == self.total:
            self.saved = time.monotonic()
            return True
        return False
