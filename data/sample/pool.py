"""Drawing many pictures at once, in a fixed order whatever the number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import cv2
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")
_MOST_WORKERS = 8
_WORTH_PROCESSES = 24  # fewer pictures are drawn before the processes have started


def in_order(
    draw: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None, title: str | None
) -> Iterator[Result]:
    """``draw`` of each job.

    Args:
        draw: can be pickled; its result depends on its argument only.
        workers: processes; None is one for each core we may use, at most eight.
        title: of the progress bar; None shows none.
    """
    with tqdm(total=len(jobs), desc=title, disable=title is None, unit="image", leave=False) as bar:
        for result in _results(draw, jobs, workers or min(_cores(), _MOST_WORKERS)):
            bar.update()
            yield result


def _cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _results(draw: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    if workers == 1 or len(jobs) < _WORTH_PROCESSES:
        yield from map(draw, jobs)
        return
    # Spawned, not forked: a fork inherits the locks of torch's and OpenCV's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        yield from pool.map(draw, jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)
