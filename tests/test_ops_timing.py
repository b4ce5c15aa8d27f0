"""The benchmarks' stopwatch and tables."""

from __future__ import annotations

import time

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
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 0.0, 0.0))
    report = Report(tmp_path / "results" / "x.md", "Speed")
    report.add("## One\n")
    text = report.path.read_text()
    assert (
        text.startswith("# Speed\n\n") and "torch " in text and "UTC, `python" in text and "load average 99.0" in text
    )
    assert "Other programs were running" in text and text.endswith("\n\n## One\n")
    assert "## One" in capsys.readouterr().out
