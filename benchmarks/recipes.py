"""Compare training recipes: the AP of each over the same number of iterations, over seeds and data sets.

python -m benchmarks.recipes --data bccd --iterations 2000 --seeds 0 1 --recipes darknet scaled "scaled --loss simota"

Each run is a folder of train.py below --runs. What is finished there is not run again, and what was stopped goes on.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.tables import Report, table
from benchmarks.training_runs import Run, add_run_flags, folder_name, train_missing
from utils import cli

SCORES = ("ap", "ap50", "ap75")


def main(argv: Sequence[str]) -> None:
    """Train what is missing, and write the table after each training."""
    args, passed_on = _parser().parse_known_args(argv)
    interval = math.ceil(args.iterations / args.evaluations)
    flags = ["--cfg", args.cfg, "--iterations", str(args.iterations), "--eval-interval", str(interval), *passed_on]
    runs = [
        _run(args, flags, recipe, data, seed) for seed in args.seeds for data in args.data for recipe in args.recipes
    ]
    train_missing(runs, args.iterations, flags, partial(report, runs, args.iterations, flags, args.out))


def report(runs: Sequence[Run], iterations: int, flags: Sequence[str], path: Path) -> None:
    """Write the tables of the runs that are finished: the scores at the end, and AP / AP50 on the way there."""
    last, on_the_way = [], []
    for data, recipe in dict.fromkeys((run.data, run.variant) for run in runs):
        same = [run for run in runs if (run.data, run.variant) == (data, recipe)]
        results = {run: result for run in same if (result := run.result(iterations)) is not None}
        if results:
            scores = (_spread([result[name] for result in results.values()]) for name in SCORES)
            last.append((Path(data).name, recipe, len(results), *scores))
            on_the_way.append((Path(data).name, recipe, _over_time(list(results))))
    text = f"Averaged weights after the last of {iterations:,} iterations, `{shlex.join(flags)}`.\n"
    out = Report(path, "Training recipes")
    out.add(text + "\n" + table(("data", "recipe", "seeds", "AP", "AP50", "AP75"), last))
    steps = sorted({iteration for *_, scores in on_the_way for iteration in scores})
    rows = [(data, recipe, *(scores.get(step, "") for step in steps)) for data, recipe, scores in on_the_way]
    header = ("data", "recipe", *(f"{step:,}" for step in steps))
    out.add("AP / AP50 after so many iterations, means of the seeds:\n\n" + table(header, rows))


def _over_time(runs: Sequence[Run]) -> dict[int, str]:
    """AP / AP50 by the iteration of each evaluation that all ``runs`` have."""
    evaluations = [{int(row["iteration"]): row for row in run.rows() if SCORES[0] in row} for run in runs]
    shared = [iteration for iteration in evaluations[0] if all(iteration in found for found in evaluations)]
    return {
        iteration: " / ".join(
            f"{statistics.mean(found[iteration][name] for found in evaluations):.3f}" for name in SCORES[:2]
        )
        for iteration in shared
    }


def _spread(values: Sequence[float]) -> str:
    """The mean, and how far seeds lie from it."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _run(args: argparse.Namespace, flags: Sequence[str], recipe: str, data: str, seed: int) -> Run:
    name = folder_name(Path(data).name, recipe, Path(args.cfg).stem, *flags[2:], f"seed{seed}")
    return Run(recipe, ("--recipe", *shlex.split(recipe)), data, seed, args.runs / name)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="recipes.py", description=__doc__.splitlines()[0], epilog="Other flags go to train.py.")
    add_run_flags(parser, name="recipes", cfg="yolov4-tiny-mish.cfg", seeds=[0])
    parser.add_argument("--evaluations", type=cli.positive_int, default=4, help="of each training (%(default)s)")
    parser.add_argument("--data", nargs="+", required=True, help="what train.py --data takes")
    parser.add_argument(
        "--recipes", nargs="+", default=["darknet", "scaled"], help='such as scaled, or "scaled --loss simota"'
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
