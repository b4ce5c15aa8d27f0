"""A GPU's stopwatch: events, CUDA graphs, peak memory, and how much of the allowed time is left."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import torch

DEVICE = "cuda"
T = TypeVar("T")
Numbers = dict[str, float | None]
"""What ``benchmarks.gpu_targets`` reads."""


class Clock:
    """How much of the allowed time is left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def has(self, seconds: float) -> bool:
        """Whether ``seconds`` more fit."""
        return time.monotonic() + seconds < self.end


def median_ms(work: Callable[[], object], rounds: int = 50, *, graph: bool = True) -> float:
    """Median milliseconds by events; as a graph's replay, where the work can be captured, to leave the host out."""
    run = _captured(work) if graph else work
    for _ in range(3):
        run()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def _captured(work: Callable[[], object]) -> Callable[[], object]:
    """The work as a graph; the work itself, and a line, where it cannot be captured."""
    side = torch.cuda.Stream()  # warmed up beside the default stream, as torch.cuda.graph wants it
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        print(f"measured with the host: {str(error).splitlines()[0]}", flush=True)
        return work
    return graph.replay


def attempt(measure: Callable[..., T], *arguments: object) -> T | None:
    """What ``measure`` gives; None, and a line, where memory or the compiler fails."""
    try:
        return measure(*arguments)
    except RuntimeError as error:  # OutOfMemoryError is one
        print(f"not measured: {(str(error).splitlines() or ['no message'])[0]}", flush=True)
    fresh_memory()  # after the error, which holds on to what was made
    return None


def fresh_memory() -> None:
    """Give back what nothing uses any more, and measure the peak from here."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most that tensors took since ``fresh_memory``."""
    return torch.cuda.max_memory_allocated()


def all_bytes() -> int:
    """The memory of the GPU."""
    return torch.cuda.get_device_properties(0).total_memory


def copy_bandwidth() -> float:
    """Bytes a second of a large copy, read and written: what every share refers to."""
    source = torch.empty(2**32, dtype=torch.uint8, device=DEVICE).random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / (median_ms(lambda: target.copy_(source), 20) / 1e3)
