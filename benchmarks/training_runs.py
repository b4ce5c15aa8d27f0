"""Trainings to be compared: runs of train.py, each in a folder of its own.

What is finished there is not run again, and what was stopped goes on.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import RESULTS
from training.log import read_metrics, shown_metrics
from utils import cli

TRAIN = Path(__file__).parents[1] / "train.py"


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        variant: what is tried, for people.
        choice: the flags of train.py that choose it.
        data: what ``train.py --data`` takes.
        seed: of weights, order and augmentation.
        folder: of the run.
    """

    variant: str
    choice: tuple[str, ...]
    data: str
    seed: int
    folder: Path

    def rows(self) -> list[dict[str, float]]:
        """All rows of its metrics.jsonl so far."""
        file = self.folder / "metrics.jsonl"
        return read_metrics(file) if file.exists() else []

    def result(self, iterations: int) -> Mapping[str, float] | None:
        """The metrics after the last iteration; None before that."""
        return next((row for row in self.rows() if row["iteration"] == iterations and shown_metrics(row)), None)

    def train(self, flags: Sequence[str]) -> None:
        """Start it, or go on with it."""
        if (self.folder / "last.pt").exists():
            command = ["--resume", str(self.folder)]
        else:
            own = ["--data", self.data, "--seed", str(self.seed), "--out", str(self.folder)]
            command = [*self.choice, *own, *flags]
        print("train.py", shlex.join(command), flush=True)
        subprocess.run([sys.executable, str(TRAIN), *command], check=True)


def train_missing(runs: Sequence[Run], iterations: int, flags: Sequence[str], report: Callable[[], None]) -> None:
    """Train what is not finished, in the order of ``runs``; report after each, so that a stopped study has its table.

    Args:
        flags: of train.py, the same for all runs.
    """
    for run in runs:
        if run.result(iterations) is None:
            run.train(flags)
        report()


def folder_name(*parts: str) -> str:
    """One name for one result: everything that decides it is among ``parts``."""
    return "_".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)


def add_run_flags(parser: argparse.ArgumentParser, *, name: str, cfg: str, seeds: Sequence[int]) -> None:
    """--cfg --seeds --iterations --runs --out, for the benchmark ``name``."""
    parser.add_argument("--cfg", default=cfg, help="(%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=cli.whole_number, default=list(seeds))
    parser.add_argument("--iterations", type=cli.positive_int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="where the run folders go")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.md")
