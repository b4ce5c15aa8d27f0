"""Search for good hyper-parameters: many short trainings, Optuna proposes the next. train.py --tune hands over to it.

python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml --iterations 500 --tune 40      forty trainings
python train.py --resume runs/tune/yolov4-tiny-mish --tune 60                             go on, to sixty
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.arguments import TrainFlags
from training.cfg import is_fine_tuning, read_cfg, with_keys
from training.class_weights import NONE
from training.flags import (
    FREE_ON_RESUME,
    LENGTH_FLAGS,
    SEARCH_FLAGS,
    parse_train_flags,
    save_args,
    without_flags,
)
from training.log import metric_title
from training.schedule.plan import FINE_TUNING_RATE, WARM_UP
from training.schedule.regime import is_deep
from training.search.plot import plot_search
from training.search.report import ranked, search_table, values_text, write_csv
from training.search.space import BOXES, HEADS, SGD, WEIGHTED, Parameter, Situation, Value, flags_for, search_space
from training.search.study import COMPLETE, DIVERGED, PRUNED, Study, Trial
from training.search.trial import LOG, Row, last_line, run_training
from utils.atomic import atomic_write, write_json
from utils.cfg import Config, format_cfg, load_cfg
from utils.cfg.classifier import is_classifier
from utils.cfg.heads import Contrastive, Region, Yolo
from utils.cfg.net import Net
from utils.cli import with_values
from utils.errors import Diverged, EnvironmentFault, InputError, UsageError, UserError
from utils.run_folder import lock_folder, new_run_folder
from utils.signals import StopRequest

_TRAIN = (sys.executable, str(Path(__file__).resolve().parents[2] / "train.py"))
_KINDS: tuple[type[UserError], ...] = (UsageError, InputError, EnvironmentFault)
_ERRORS = {kind.exit_code: kind for kind in _KINDS}
_DIVERGED = Diverged.exit_code


def search(args: TrainFlags, argv: Sequence[str], *, train: Sequence[str] = _TRAIN) -> None:
    """Run or go on with a search, to its table.

    Args:
        args: the flags of train.py.
        argv: the same as they were typed.
        train: the command that trains.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--tune: a search starts its trainings itself; start it without torchrun")
    args, typed, folder = _beginning(args, argv)
    config = read_cfg(args)
    space = search_space(args.tune_space, situation_of(args, config))
    metric = "top1" if is_classifier(config) else args.best_by or "ap50"
    baseline = {parameter.name: parameter.nearest(value_now(parameter, args, config)) for parameter in space}
    with ExitStack() as closing:
        closing.enter_context(lock_folder(folder))
        stop = closing.enter_context(StopRequest())
        study = Study(folder, space, baseline, pruner=args.tune_pruner, seed=args.seed)
        closing.callback(study.close)
        run = Search(study, folder, (train, typed), space, metric, stop)
        run.until(args.tune)
        report(run, args, typed)
    if stop.signal is not None:
        print(f"stopped by a signal; go on with: python train.py --resume {folder}")
        sys.exit(stop.exit_code)


class Search:
    """The trials of one search, one after the other.

    Args:
        training: the command that trains, and the flags that all trials share.
        metric: what a trial is judged by: the best of its evaluations.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        training: tuple[Sequence[str], Sequence[str]],
        space: Sequence[Parameter],
        metric: str,
        stop: StopRequest,
    ) -> None:
        self.study, self.folder, self.space, self.stop = study, folder, tuple(space), stop
        self.train, self.flags = training
        self.metric, self.title = metric, metric_title(metric)

    def until(self, total: int) -> None:
        """Run trials until ``total`` have ended, or as many as the signal to stop leaves time for."""
        done = len(self.study.ended())
        with tqdm(total=max(total, done), initial=done, unit="trial", dynamic_ncols=True, disable=None) as bar:
            while len(self.study.ended()) < total and self.stop.signal is None:
                self._one(bar)

    def _one(self, bar: tqdm) -> None:
        """Run one trial and note how it ended; a trial that is stopped stays open."""
        trial = self.study.begin()
        folder = self.trial_folder(trial)
        folder.mkdir(exist_ok=True)
        follower = _Follower(self, trial, folder, bar)
        flags = (*self.flags, *flags_for(self.space, trial.values), "--tune", "0", "--out", str(folder))
        if (folder / "last.pt").exists():
            flags = ("--resume", str(folder))
        code = run_training((*self.train, *flags), folder, hopeless=follower, stop_signal=lambda: self.stop.signal)
        if code is None and not follower.given_up:
            return
        outcome = PRUNED if code is None else {0: COMPLETE, _DIVERGED: DIVERGED}.get(code)
        if outcome is None or (outcome == COMPLETE and follower.best is None):
            raise _failure(folder, code)
        self.study.end(outcome, None if outcome == DIVERGED else follower.best)
        follower.finish()
        self._drop_weights()
        bar.write(self._line(trial, outcome, follower.best, bar.total), file=sys.stdout)
        sys.stdout.flush()

    def trial_folder(self, trial: Trial) -> Path:
        """Where a trial's training lies."""
        return self.folder / f"trial{trial.index + 1:03}"

    def _drop_weights(self) -> None:
        """Of the trials that ended only the best keeps its weights; a full-size network has 1.3 GB of them."""
        trials = self.study.ended()
        best = next(iter(ranked(trials)), None)
        for folder in (self.trial_folder(trial) for trial in trials if trial != best):
            for path in (*folder.glob("*.pt"), *folder.glob("*.weights")):
                path.unlink()

    def _line(self, trial: Trial, outcome: str, score: float | None, total: int) -> str:
        found = outcome if score is None or outcome == DIVERGED else f"{self.title} {score:.3f}"
        given_up = " (given up)" if outcome == PRUNED else ""
        best = next(iter(ranked(self.study.ended())), None)
        so_far = f", best {best.score:.3f} of trial {best.index + 1}" if best else ""
        return f"trial {trial.index + 1} of {total}: {found}{given_up}{so_far}: {values_text(trial)}"


class _Follower:
    """Looks at the rows of a running trial: keeps its best score, moves the bar, says when to give it up."""

    def __init__(self, run: Search, trial: Trial, folder: Path, bar: tqdm) -> None:
        self.best: float | None = None
        self.given_up = False
        self._run, self._folder, self._bar = run, folder, bar
        self._evaluations, self._total, self._shown, self._before = 0, 0, 0.0, bar.n
        bar.set_description(f"trial {trial.index + 1}")

    def __call__(self, row: Row) -> bool:
        """Whether the trial is hopeless."""
        self._move(row["iteration"])
        if self._run.metric not in row:
            return False
        self._evaluations += 1
        self.best = max(row[self._run.metric], self.best or 0.0)
        self.given_up = self._run.study.hopeless(self._evaluations, self.best)
        return self.given_up

    def finish(self) -> None:
        """The bar is where the next trial begins."""
        self._bar.update(self._before + 1 - self._bar.n)

    def _move(self, iteration: int) -> None:
        """Parts of a trial count, so that the time left is known during the first one."""
        if not self._total:
            self._total = load_cfg(self._folder / "network.cfg").net.max_batches
        part = min(1.0, iteration / self._total)
        if part - self._shown >= 0.01:
            self._bar.update(part - self._shown)
            self._shown = part


def situation_of(args: TrainFlags, config: Config) -> Situation:
    """What of the search space can change a training with these flags."""
    heads: list[Any] = [layer for layer in config.layers if isinstance(layer, (Yolo, Region, Contrastive))]
    by_depth = args.optimizer is None and is_deep(config)  # a search is for data of one's own, which are few
    adam = by_depth or args.optimizer == "adamw" or (args.optimizer != "nesterov" and config.net.adam)
    plain = bool(heads) and all(type(head) is Yolo for head in heads)
    counted = plain and heads[0].counters_per_class is not None
    weighted = counted if args.class_weights is None else args.class_weights != NONE
    has = {HEADS: plain, WEIGHTED: weighted, SGD: not adam, BOXES: bool(heads)}
    return Situation(args.recipe, frozenset(name for name, there in has.items() if there))


def value_now(parameter: Parameter, args: TrainFlags, config: Config) -> Value:
    """What ``parameter`` is in a training with these flags and no search."""
    head, _, key = parameter.flag.partition(" ")
    if not key:
        by_cfg = {"mosaic": 0.5 * (config.net.mosaic > 0), "mixup": 0.5 * (config.net.mixup == 1), "warm_up": WARM_UP}
        name = head.removeprefix("--").replace("-", "_")
        given = getattr(args, name)
        return by_cfg[name] if given is None else given
    section: Net | Yolo = config.net
    if key.startswith("yolo."):
        section = next(layer for layer in config.layers if isinstance(layer, Yolo))
    value = getattr(section, key.removeprefix("yolo."))
    return min(value, FINE_TUNING_RATE) if key == "learning_rate" and is_fine_tuning(args, config) else value


def report(run: Search, args: TrainFlags, typed: Sequence[str]) -> None:
    """Table, csv, picture, and the best trial as best.cfg and as a line to paste.

    Raises:
        Diverged: no trial came to a score, and none is left to try.
    """
    trials = run.study.ended()
    best = next(iter(ranked(trials)), None)
    if best is None:
        if trials and run.stop.signal is None:
            raise Diverged(f"{run.folder}: all {len(trials)} trials diverged; give a lower range, see --tune-space")
        return
    write_csv(run.space, trials, run.folder / "search.csv")
    plot_search(run.space, trials, run.folder / "search.png", run.title)
    print(*search_table(run.space, trials, run.title), sep="\n")
    flags = flags_for(run.space, best.values)
    line = shlex.join(["python", "train.py", *without_flags(typed, SEARCH_FLAGS | LENGTH_FLAGS), *flags])
    config = with_keys(load_cfg(args.cfg), parse_train_flags([*typed, *flags]).set)
    with atomic_write(run.folder / "best.cfg", binary=False) as file:
        file.write(f"# {run.title} {best.score:.4f} in trial {best.index + 1}, with the flags of\n# {line}\n")
        file.write(format_cfg(config))
    print(f"best: {run.title} {best.score:.3f} in {run.trial_folder(best)}; its keys in {run.folder}/best.cfg")
    print(f"train with it: {line}")


def _beginning(args: TrainFlags, argv: Sequence[str]) -> tuple[TrainFlags, list[str], Path]:
    """The flags of a search, as they were typed those that its trainings share, and its folder, made where missing."""
    folder = args.resume or (Path(args.out) if args.out else new_run_folder(Path("runs/tune"), Path(args.cfg).stem))
    file = folder / "search.json"
    typed = without_flags(argv, {"--tune", "--out"})
    if args.resume:
        if not file.is_file():
            raise UsageError(f"{folder}: holds a training, no search; leave --tune out, or start one with --out")
        typed, trials = json.loads(file.read_text(encoding="utf-8"))["flags"], args.tune
        args = with_values(parse_train_flags(typed), tune=trials)
    elif file.is_file():
        _check_same_search(args, parse_train_flags(json.loads(file.read_text(encoding="utf-8"))["flags"]), folder)
    elif (folder / "args.json").exists():
        raise UsageError(f"{folder}: holds a run already; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    save_args(args, folder / "args.json")
    write_json(file, {"flags": typed})
    if args.nominal_batch:  # a rate given by hand would be taken as it is
        typed = [*typed, "--nominal-batch", str(args.nominal_batch)]
    return args, typed, folder


def _check_same_search(args: TrainFlags, before: TrainFlags, folder: Path) -> None:
    differing = {key for key, value in vars(args).items() if value != getattr(before, key)} - FREE_ON_RESUME - {"out"}
    if differing:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(differing))
        raise UsageError(
            f"{folder}: holds a search with other {flags}; go on with --resume {folder}, or give another --out"
        )


def _failure(folder: Path, code: int | None) -> UserError:
    """What ended a trial that neither finished nor diverged: it would end the others, too."""
    reason = last_line(folder) if code else "it was not evaluated once"
    kind = _ERRORS.get(code or 0, UserError)
    return kind(f"{folder}: its training ended with code {code}: {reason}; see {folder / LOG}; then go on as before")
