"""benchmarks/loader.py: what it measures is there to be measured, and measures add up from run to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import loader
from data.augment import transforms
from tests.painted import write_painted


def test_a_report_with_the_measures_so_far(tmp_path: Path) -> None:
    data = write_painted(tmp_path / "painted")
    flags = ["--data", str(data), "--cfg", str(data / "painted.cfg"), "--size", "64", "--batch", "2", "--batches", "2"]
    places = ["--out", str(tmp_path / "loader.md"), "--measures", str(tmp_path / "measures.csv"), "--workers", "0"]
    for label in ("before", "after"):
        loader.main([*flags, *places, "--sources", "files", "memory", "--label", label])
    lines = (tmp_path / "loader.md").read_text().splitlines()
    assert sum(line.startswith("| files | mosaic |") for line in lines) == 2  # rates, and where the time goes
    rows = [line for line in lines if line.startswith(("| before |", "| after |"))]
    assert len(rows) == 2 and all(row.count(" ms)") == 4 and "not measured" not in row for row in rows)


def test_a_stage_is_timed_without_the_stages_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def takes(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(loader.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(transforms, "blur_and_noise", lambda: takes(2))
    monkeypatch.setattr(transforms, "paint", lambda: (takes(1), transforms.blur_and_noise(), takes(4)))
    with loader.stages_timed() as spent:
        transforms.paint()
    assert spent == {"geometry and colour": 5, "blur and noise": 2}
