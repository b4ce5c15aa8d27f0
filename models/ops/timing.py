"""Compare ways of doing one thing: run in turns, so that a busy moment of the machine hits them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch


def interleaved_medians(
    ways: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    rounds: int = 50,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each way; at least three rounds, then until ``seconds`` or ``rounds`` are used up.

    A call on a GPU is timed by events, without the wait for the host.

    Args:
        clock: seconds, on a CPU; time.thread_time does not see other programs, nor other threads of this one.
    """
    measure = _milliseconds_cuda if device == "cuda" else partial(_milliseconds, clock)
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


def _milliseconds(clock: Callable[[], float], way: Callable[[], object]) -> float:
    begin = clock()
    way()
    return (clock() - begin) * 1e3


def _milliseconds_cuda(way: Callable[[], object]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    way()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)
