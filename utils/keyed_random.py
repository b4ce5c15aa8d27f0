"""Randomness that depends on a key only: never on the order of calls, the worker or the run before."""

from __future__ import annotations

import numpy as np


def keyed_rng(*key: int) -> np.random.Generator:
    """A generator that is a pure function of ``key``, for example (seed, purpose, epoch, index).

    The counter-based Philox generator starts in microseconds, so every sample can have its own.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
