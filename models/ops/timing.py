"""Compare ways of doing one thing: run in turns, so that a busy moment of the machine hits them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved_medians(
    ways: Mapping[str, Callable[[], object]], *, seconds: float = 1.0, rounds: int = 50, device: str = "cpu"
) -> dict[str, float]:
    """Median milliseconds of each way; at least three rounds, then until ``seconds`` or ``rounds`` are used up.

    A call on a GPU is timed by events, without the wait for the host.
    """
    measure = _milliseconds_cuda if device == "cuda" else _milliseconds
    for way in ways.values():  # the first call pays for memory and caches
        way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        for name, way in ways.items():
            times[name].append(measure(way))
        if turn >= 2 and time.perf_counter() > end:
            break
    return {name: statistics.median(values) for name, values in times.items()}


def _milliseconds(way: Callable[[], object]) -> float:
    begin = time.perf_counter()
    way()
    return (time.perf_counter() - begin) * 1e3


def _milliseconds_cuda(way: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    way()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
