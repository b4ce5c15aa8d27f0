from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from inference.pipeline import background


def test_keeps_order_and_everything() -> None:
    assert list(background(range(100), depth=3)) == list(range(100))
    assert list(background([], depth=1)) == []


def test_fault_arrives_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken frame 3")

    seen = []
    with pytest.raises(ValueError, match="broken frame 3"):
        for item in background(items()):
            seen.append(item)
    assert seen == [1, 2]


def test_fault_passes_through_two_stages() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        list(background(item for item in background(items())))


def test_closing_stops_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
        finally:
            closed.set()

    threads = threading.active_count()
    source = endless()  # a reference that would keep its files open
    with closing(background(source, depth=2)) as items:
        assert next(items) == 1
    assert closed.wait(2.0)
    assert threading.active_count() == threads


def test_runs_ahead_but_not_further_than_depth() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with closing(background(items(), depth=3)) as ahead:
        next(ahead)
        deadline = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 5  # one taken, three waiting, one in hand
