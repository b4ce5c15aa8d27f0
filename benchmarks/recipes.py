"""Compare training recipes: the AP each reaches in the same number of iterations, over seeds and data sets.

python -m benchmarks.recipes --data bccd --iterations 2000 --seeds 0 1 --recipes darknet scaled "scaled --loss simota"

Each run is a folder of train.py below --runs. What is finished there is not run again, and what was stopped goes on.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import RESULTS, Report, table
from utils import cli
from utils.runlog import read_metrics

SCORES = ("ap", "ap50", "ap75")
TRAIN = Path(__file__).parents[1] / "train.py"


@dataclass(frozen=True)
class Run:
    """One training: its recipe with the flags that change it, its data and its seed."""

    recipe: str
    data: str
    seed: int
    folder: Path

    def scores(self, iterations: int) -> tuple[float, ...] | None:
        """AP, AP50 and AP75 after the last iteration; None before that."""
        file = self.folder / "metrics.jsonl"
        rows = read_metrics(file) if file.exists() else []
        last = next((row for row in rows if row["iteration"] == iterations and "ap50" in row), None)
        return last and tuple(last[name] for name in SCORES)

    def train(self, flags: Sequence[str]) -> None:
        """Start it, or go on with it."""
        if (self.folder / "last.pt").exists():
            command = ["--resume", str(self.folder)]
        else:
            recipe = ["--recipe", *shlex.split(self.recipe)]
            command = [*recipe, "--data", self.data, "--seed", str(self.seed), "--out", str(self.folder), *flags]
        print("train.py", shlex.join(command), flush=True)
        subprocess.run([sys.executable, str(TRAIN), *command], check=True)


def main(argv: Sequence[str]) -> None:
    """Train what is missing, and write the table after each training."""
    args, passed_on = _parser().parse_known_args(argv)
    flags = ["--cfg", args.cfg, "--iterations", str(args.iterations), "--eval-interval", "0", *passed_on]
    runs = [
        Run(recipe, data, seed, args.runs / _folder_name(args, flags, recipe, data, seed))
        for seed in args.seeds
        for data in args.data
        for recipe in args.recipes
    ]
    for run in runs:
        if run.scores(args.iterations) is None:
            run.train(flags)
        report(runs, args.iterations, flags, args.out)


def report(runs: Sequence[Run], iterations: int, flags: Sequence[str], path: Path) -> None:
    """Write the table of the runs that are finished."""
    rows = []
    for data, recipe in dict.fromkeys((run.data, run.recipe) for run in runs):
        found = [run.scores(iterations) for run in runs if (run.data, run.recipe) == (data, recipe)]
        found = [scores for scores in found if scores is not None]
        if found:
            rows.append((Path(data).name, recipe, len(found), *map(_spread, zip(*found, strict=True))))
    text = f"Averaged weights after the last of {iterations:,} iterations, `{shlex.join(flags)}`.\n"
    Report(path, "Training recipes").add(text + "\n" + table(("data", "recipe", "seeds", "AP", "AP50", "AP75"), rows))


def _spread(values: Sequence[float]) -> str:
    """The mean, and how far seeds lie from it."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _folder_name(args: argparse.Namespace, flags: Sequence[str], recipe: str, data: str, seed: int) -> str:
    """One name for one result: everything that decides it is in it."""
    parts = [Path(data).name, recipe, Path(args.cfg).stem, *flags[2:], f"seed{seed}"]
    return "_".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="recipes.py", description=__doc__.splitlines()[0], epilog="Other flags go to train.py.")
    parser.add_argument("--cfg", default="yolov4-tiny-mish.cfg")
    parser.add_argument("--data", nargs="+", required=True, help="what train.py --data takes")
    parser.add_argument(
        "--recipes", nargs="+", default=["darknet", "scaled"], help='such as scaled, or "scaled --loss simota"'
    )
    parser.add_argument("--seeds", nargs="+", type=cli.whole_number, default=[0])
    parser.add_argument("--iterations", type=cli.positive_int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/recipes"), help="where the run folders go")
    parser.add_argument("--out", type=Path, default=RESULTS / "recipes.md")
    return parser


if __name__ == "__main__":
    cli.run(main)
