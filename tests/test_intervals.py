"""training.schedule.intervals: when a run evaluates and saves."""

from __future__ import annotations

import pytest

from training.schedule.intervals import Intervals


def evaluations(intervals: Intervals) -> list[int]:
    return [iteration for iteration in range(1, intervals.total + 1) if intervals.evaluation(iteration)]


@pytest.mark.parametrize(
    ("total", "every", "when"),
    [(100, 30, [30, 60, 90, 100]), (100, 0, [100]), (120, None, [*range(10, 121, 10)]), (3, None, [1, 2, 3])],
)
def test_evaluations(total: int, every: int | None, when: list[int]) -> None:
    assert evaluations(Intervals(total, evaluate_every=every)) == when


def test_saves_by_iterations_and_at_the_end() -> None:
    intervals = Intervals(10, evaluate_every=0, save_every=4)
    assert [iteration for iteration in range(1, 11) if intervals.save(iteration)] == [4, 8, 10]


def test_saves_by_time_and_after_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    intervals = Intervals(100, evaluate_every=50)
    assert not intervals.save(1)
    now[0] += 301
    assert intervals.save(2) and not intervals.save(3)
    assert intervals.save(50) and intervals.save(100)
