"""evaluation.speed: milliseconds for an image, by stage and altogether."""

from __future__ import annotations

import time

import pytest
import torch

from evaluation.speed import Speed, Stopwatch, speed_of


def test_a_stage_takes_what_all_processes_spent_and_the_slowest_sets_the_pace() -> None:
    spent = [
        {"loading": 1.0, "network": 2.0, "postprocess": 0.5},
        {"loading": 0.0, "network": 2.0, "postprocess": 0.5},
    ]
    # 20 images: loading 1 s / 20 = 50 ms, network 4 s / 20 = 200 ms, post-processing 1 s / 20 = 50 ms;
    # all are done when the first process is, after 3.5 s: 20 / 3.5 images/s
    assert speed_of(spent, 20) == Speed(50.0, 200.0, 50.0, pytest.approx(20 / 3.5))


def test_laps_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter((10.0, 10.5, 12.25))
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Stopwatch(torch.device("cpu"))
    clock.lap("network")
    clock.lap("network")
    assert clock.spent == {"loading": 0.0, "network": 2.25, "postprocess": 0.0}
