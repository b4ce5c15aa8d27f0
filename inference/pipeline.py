"""Stages that work at the same time: an iterable that runs ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
_POLL = 0.1  # seconds; how soon a waiting thread notices that the other side has gone
_END = object()


class _Fault:
    """An exception on its way from the thread to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def background(items: Iterable[Item], depth: int = 2) -> Generator[Item]:
    """Yield ``items`` in order while a thread already works on the next ones, at most ``depth`` ahead.

    Decoding, network and encoding release the interpreter lock, so chained stages overlap. An exception in
    the thread is raised here, after the items before it. Closing the generator stops the thread.
    """
    waiting: queue.Queue[object] = queue.Queue(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, waiting, stopped), daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if item is _END:
                return
            if isinstance(item, _Fault):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(timeout=5.0)  # a thread that hangs in a driver must not hang the program: it is a daemon


def _produce(items: Iterable[object], waiting: queue.Queue[object], stopped: threading.Event) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            if not _put(waiting, item, stopped):
                break
        else:
            _put(waiting, _END, stopped)
    except BaseException as error:  # whatever it is, the consumer must hear of it
        _put(waiting, _Fault(error), stopped)
    finally:
        if hasattr(iterator, "close"):
            iterator.close()  # the generator's files are closed here, not when it happens to be collected


def _put(waiting: queue.Queue[object], item: object, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=_POLL)
        except queue.Full:
            continue
        return True
    return False
