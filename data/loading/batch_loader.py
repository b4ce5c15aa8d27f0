"""What every loader of mini-batches needs: the order of the images, workers and what becomes of them, plain errors."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.formats.dataset import Dataset as Images
from data.loading.batch_slots import BatchSlots
from data.loading.reader import NOT_READING
from utils.errors import EnvironmentFault, UserError
from utils.image import printable
from utils.keyed_random import keyed_rng

ORDER, AUGMENT, SCALE = 1, 2, 3  # what a random choice is for: the second number of its key

_PREFETCH = 2  # mini-batches that each worker may be ahead
_TIMEOUT = 600  # seconds a mini-batch may take before its worker counts as hung
_SIGNAL_DELAY = 0.5  # seconds within which the death of a worker is signalled


@dataclass(frozen=True)
class Loading:
    """How mini-batches are loaded; what is in them depends on none of it.

    Attributes:
        workers: processes; 0 loads in this one.
        cache: which decoded images are kept, see `data.loading.cache.open_cache`; nothing is kept for evaluation.
        pin_memory: put mini-batches where a GPU can fetch them while it computes.
        rank, ranks: of several processes that work together, which this is: it gets its part of the images.
        context: how workers start, "fork" or "spawn"; default the platform's.
    """

    workers: int = 2
    cache: Literal["memory", "disk"] | None = None
    pin_memory: bool = False
    rank: int = 0
    ranks: int = 1
    context: Literal["fork", "spawn"] | None = None


class Batches(Protocol):
    """Mini-batches by their number; an error is returned, because raising would wrap it in a traceback."""

    @property
    def dataset(self) -> Images: ...

    def __getitem__(self, minibatch: int) -> Any: ...


class _Lending(Dataset):
    """Mini-batches by their number, with their images in slots."""

    def __init__(self, batches: Batches, slots: BatchSlots) -> None:
        self._batches = batches
        self._slots = slots

    def __getitem__(self, minibatch: int) -> Any:
        return self._slots.put(minibatch, self._batches[minibatch])


class _Asking:
    """The sampler of `_Lending`: each number gets its slot when it is drawn."""

    def __init__(self, numbers: range, slots: BatchSlots) -> None:
        self._numbers = numbers
        self._slots = slots

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return self._slots.asking(self._numbers)


class BatchLoader(DataLoader):
    """A DataLoader over whole mini-batches that raises what its workers returned, and says what killed one."""

    def __init__(
        self,
        batches: Batches,
        numbers: range,
        workers: int,
        reading: torch.Tensor,
        pin_memory: bool,
        context: str | None,
        slots: BatchSlots | None = None,
    ) -> None:
        """Prepare to load.

        Args:
            numbers: of the mini-batches, one after the other.
            reading: see :func:`reading_marks`.
            context: how workers start, "fork" or "spawn"; default the platform's.
            slots: where ``batches`` make their images, for :func:`minibatches_ahead`; else they travel on their own.
        """
        self._slots = slots
        super().__init__(
            cast("Dataset[Any]", batches) if slots is None else _Lending(batches, slots),
            batch_size=None,
            sampler=numbers if slots is None else _Asking(numbers, slots),
            num_workers=workers,
            prefetch_factor=_PREFETCH if workers else None,
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            timeout=_TIMEOUT if workers else 0,
            worker_init_fn=_start_worker,
            multiprocessing_context=context if workers else None,
            generator=torch.Generator(),  # else each iteration draws from the global one, and resuming is not exact
        )
        self._records = batches.dataset.records
        self._reading = reading

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a generator closes its workers by itself
        iterator: Any = super().__iter__()
        workers = getattr(iterator, "_workers", ())
        try:
            yield from self._items(iterator)
        except RuntimeError as error:
            if "DataLoader" not in str(error):
                raise
            raise EnvironmentFault(self._lost(str(error))) from error
        finally:  # also when the consumer stops early: workers that outlive the loop are joined for ever at exit
            with contextlib.suppress(RuntimeError):  # raised once more for a worker that was killed
                if workers:
                    iterator._shutdown_workers()
            for worker in workers:
                worker.kill()  # one that hangs would keep this process from ending
                worker.join()
            if self._slots is not None:
                self._slots.give_up()

    def _items(self, iterator: Iterator[Any]) -> Iterator[Any]:
        try:
            for item in iterator:
                if isinstance(item, UserError):
                    raise item
                yield item if self._slots is None else self._slots.take(item, pin_memory=self.pin_memory)
        except (ConnectionError, EOFError) as error:  # a worker died while handing over a mini-batch
            time.sleep(_SIGNAL_DELAY)  # torch learns of it by a signal whose handler raises: better here than later
            raise RuntimeError("a DataLoader worker exited unexpectedly") from error

    def _lost(self, reason: str) -> str:
        """One line on a worker that died or hung."""
        indices = [int(index) for index in self._reading if index != NOT_READING]
        files = ", ".join(printable(self._records[index].path) for index in indices) or "no image"
        return f"{reason.splitlines()[0]} while reading {files}; out of memory? try fewer --workers, or 0"


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the images in one epoch, (count,)."""
    return keyed_rng(seed, ORDER, epoch).permutation(count)


def minibatches_ahead(workers: int) -> int:
    """Mini-batches that are asked for before the first of them is taken."""
    return _PREFETCH * workers


def reading_marks(workers: int) -> torch.Tensor:
    """int64 (workers,), shared: the image each worker is reading, so that a death can be blamed."""
    return torch.full((max(workers, 1),), NOT_READING).share_memory_()


def _start_worker(worker: int) -> None:
    """One thread each; signals to the whole group are for the main process, which ends the workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _unchanged(item: Any) -> Any:
    return item
