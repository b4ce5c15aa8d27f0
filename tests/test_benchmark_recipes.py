"""benchmarks/recipes.py: which trainings it starts, goes on with and leaves alone, and the table it writes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import recipes
from utils.errors import UsageError


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; each leaves the metrics of a finished training, AP = .5 + seed / 10."""
    commands: list[list[str]] = []

    def run(command: list[str], check: bool) -> None:
        assert check and command[1].endswith("train.py")
        commands.append(command[2:])
        folder = Path(command[command.index("--resume" if "--resume" in command else "--out") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        ap = 0.5 + int(folder.name[-1]) / 10
        row = {"iteration": 30, "ap": ap, "ap50": ap + 0.2, "ap75": ap - 0.2}
        (folder / "metrics.jsonl").write_text(
            "".join(
                json.dumps(line) + "\n"
                for line in ({**row, "iteration": 15, "ap": ap / 2}, {"iteration": 30, "loss": 1.0}, row)
            )
        )

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def flags(folder: Path, *more: str) -> list[str]:
    places = ("--runs", str(folder / "runs"), "--out", str(folder / "recipes.md"))
    return ["--data", "some/bccd", "--iterations", "30", *places, "--size", "256", *more]


def test_every_recipe_with_every_seed_and_a_table(tmp_path: Path, trained: list[list[str]]) -> None:
    recipes.main(flags(tmp_path, "--seeds", "0", "1", "--recipes", "darknet", "scaled --loss simota"))
    starts = [command[: command.index("--out")] for command in trained]
    assert starts == [
        ["--recipe", *recipe, "--data", "some/bccd", "--seed", seed]
        for seed in "01"
        for recipe in (["darknet"], ["scaled", "--loss", "simota"])
    ]
    rest = ["--cfg", "yolov4-tiny-mish.cfg", "--iterations", "30", "--eval-interval", "8", "--size", "256"]
    assert all(command[-len(rest) :] == rest for command in trained)
    assert len({command[command.index("--out") + 1] for command in trained}) == 4
    lines = (tmp_path / "recipes.md").read_text().splitlines()
    # .5 and .6: mean .55, standard deviation .0707
    assert [line for line in lines if line.startswith("| bccd")] == [
        "| bccd | darknet | 2 | 0.550 ± 0.071 | 0.750 ± 0.071 | 0.350 ± 0.071 |",
        "| bccd | scaled --loss simota | 2 | 0.550 ± 0.071 | 0.750 ± 0.071 | 0.350 ± 0.071 |",
        "| bccd | darknet | 0.275 / 0.750 | 0.550 / 0.750 |",
        "| bccd | scaled --loss simota | 0.275 / 0.750 | 0.550 / 0.750 |",
    ]
    assert "| data | recipe | 15 | 30 |" in lines
    assert "of 30 iterations" in "\n".join(lines) and "threads" in lines[2]


def test_finished_runs_are_left_alone_and_stopped_ones_go_on(tmp_path: Path, trained: list[list[str]]) -> None:
    recipes.main(flags(tmp_path, "--recipes", "darknet", "scaled"))
    assert len(trained) == 2
    folder = next((tmp_path / "runs").glob("*scaled*"))
    (folder / "metrics.jsonl").write_text('{"iteration": 12, "ap": 0.1, "ap50": 0.2, "ap75": 0.0}\n')
    (folder / "last.pt").touch()
    recipes.main(flags(tmp_path, "--recipes", "darknet", "scaled"))
    assert trained[2:] == [["--resume", str(folder)]]
    recipes.main(flags(tmp_path, "--recipes", "darknet", "--size", "320"))  # another size is another result
    assert len(trained) == 4
    lines = (tmp_path / "recipes.md").read_text().splitlines()
    assert "| bccd | darknet | 1 | 0.500 | 0.700 | 0.300 |" in lines and not any("scaled" in line for line in lines)


def test_wrong_flags(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recipes.py: the following arguments are required: --data"):
        recipes.main([])
