"""What an activation is worth: trainings that differ in it and in the seed alone, with intervals and a picture.

python -m benchmarks.activation_study --cfg cifar.cfg --data cifar --batch 64 --iterations 700
python -m benchmarks.activation_study --cfg yolov4-tiny.cfg --data bccd --size 192 --iterations 300
python -m benchmarks.activation_study --cfg yolov4.cfg --data coco --size 416 --batch 64 --iterations 50000  (a GPU)

Every study is a folder below --runs and keeps its runs there: what is finished is not run again, what was stopped goes
on. All activations are trained with one seed before the next, so that a stopped study compares like with like. The
table and the picture show all studies below --runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.activation_report import write_report
from benchmarks.activation_runs import ACTIVATIONS, StepCosts, Study, add_study
from benchmarks.step_cost import in_turns, kind_of_time
from benchmarks.training_runs import add_run_flags, train_missing
from utils import cli
from utils.device import precision_name, resolve_precision, select_device
from utils.structures import Size

DOCS = Path(__file__).parents[1] / "docs"


def main(argv: Sequence[str]) -> None:
    """Train what is missing and measure what a step costs; write table and picture after each training."""
    args, passed_on = _parser().parse_known_args(argv)
    study = _study(args, passed_on)
    add_study(study)
    report = partial(write_report, args.runs, args.out, args.picture)
    if args.only in (None, "trainings"):
        train_missing(study.runs(), study.iterations, study.flags, report)
    if args.only in (None, "steps"):
        study.keep_step_costs(_step_costs(args))
    report()


def _step_costs(args: argparse.Namespace) -> StepCosts:
    """Measure a fused training step with each activation."""
    shared = ["--cfg", args.cfg, "--batch", str(args.batch), "--precision", args.precision, "--device", args.device]
    shared += ["--size", _size_text(args.size)] if args.size else []
    ways = {activation: [*shared, "--activation", activation] for activation in args.activations}
    device = select_device(args.device)
    precision = precision_name(resolve_precision(args.precision, device, training=True))
    return StepCosts(f"{precision}, {kind_of_time(device)}", in_turns(ways, args.rounds))


def _study(args: argparse.Namespace, passed_on: Sequence[str]) -> Study:
    every = max(1, args.iterations // args.evaluations)
    flags = ["--cfg", args.cfg, "--iterations", str(args.iterations), "--eval-interval", str(every)]
    if args.size:
        flags += ["--size", _size_text(args.size)]
    flags += ["--batch", str(args.batch), "--precision", args.precision, "--device", args.device, *passed_on]
    return Study(args.runs, args.data, args.iterations, tuple(flags), tuple(args.activations), tuple(args.seeds))


def _size_text(size: Size) -> str:
    return "x".join(map(str, size))


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="activation_study.py", description=__doc__.splitlines()[0], epilog="Other flags go to train.py."
    )
    add_run_flags(parser, name="activation_study", cfg="yolov4-tiny.cfg", seeds=[0, 1, 2])
    parser.add_argument("--data", required=True, help="what train.py --data takes")
    parser.add_argument("--activations", nargs="+", default=list(ACTIVATIONS), help="(%(default)s)")
    parser.add_argument("--size", type=cli.parse_size, help="input size (the cfg's)")
    parser.add_argument("--batch", type=cli.positive_int, default=8, help="images a step (%(default)s)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--evaluations", type=cli.positive_int, default=4, help="in each training (%(default)s)")
    parser.add_argument("--rounds", type=cli.positive_int, default=9, help="steps timed of each (%(default)s)")
    parser.add_argument("--only", choices=("trainings", "steps", "report"), help="do this alone (all of it)")
    parser.add_argument("--picture", type=Path, default=DOCS / "activation_study.svg")
    return parser


if __name__ == "__main__":
    cli.run(main)
