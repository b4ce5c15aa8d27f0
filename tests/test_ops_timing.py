"""The benchmarks' stopwatch and tables."""

from __future__ import annotations

import sys
import time

import pytest

from benchmarks import tables
from benchmarks.tables import Report, table
from models.ops.timing import interleaved_medians


def test_ways_take_turns_and_the_first_call_does_not_count():
    calls = []

    def slow_at_first() -> None:
        calls.append("a")
        time.sleep(0.05 if len(calls) == 1 else 0)

    times = interleaved_medians({"a": slow_at_first, "b": lambda: calls.append("b")}, seconds=0, rounds=50)
    assert calls == ["a", "b"] * 4  # one to warm up, three rounds at least
    assert times["a"] < 40 and set(times) == {"a", "b"}


def test_as_many_rounds_as_asked_for_when_time_allows():
    calls = []
    interleaved_medians({"a": lambda: calls.append(1)}, seconds=60, rounds=7)
    assert len(calls) == 8


def test_a_table_never_invents_a_number():
    text = table(("what", "ms"), [("a", 1.23456), ("b", 1234.5), ("c", None), ("d", "-")])
    assert text.splitlines() == [
        "| what | ms |",
        "| --- | --- |",
        "| a | 1.23 |",
        "| b | 1234 |",
        "| c | not measured |",
        "| d | - |",
    ]


def test_a_report_says_where_its_numbers_come_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tables, "others_share", lambda: 0.5)
    monkeypatch.setattr("sys.argv", ["/home/somebody/speed.py", "--data", "/home/somebody/cells", "--runs", "2"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    report = Report(tmp_path / "results" / "x.md", "Speed")
    report.add("## One\n")
    text = report.path.read_text()
    assert text.startswith("# Speed\n\n") and "torch " in text
    assert "UTC, `python speed.py --data cells --runs 2`" in text
    assert "Others took 50% of the cores" in text and text.endswith("\n\n## One\n")
    assert "## One" in capsys.readouterr().out


def test_a_quiet_machine_needs_no_note(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "others_share", lambda: 0.02)
    assert "Others" not in Report(tmp_path / "x.md", "Speed").path.read_text()


@pytest.mark.parametrize(("idle", "share"), [(100, 0.0), (75, 0.25), (0, 1.0)])
def test_what_others_take(monkeypatch, idle, share):
    ticks = iter(([0] * 8, [100 - idle, 0, 0, idle, 0, 0, 0, 0]))
    monkeypatch.setattr(tables, "_processor_ticks", lambda: next(ticks))
    assert tables.others_share(0) == pytest.approx(share)
