"""The flags of train.py, and what ``--resume`` makes of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from training.arguments import AUTO, TrainFlags, make_parser
from training.recipes import RECIPES
from utils import cli
from utils.errors import InputError, UsageError

# what may differ when a run goes on; everything else decides what it computes
FREE_ON_RESUME = {
    "resume",
    "workers",
    "device",
    "epochs",
    "iterations",
    "debug",
    "eval_interval",
    "save_interval",
    "patience",
    "on_divergence",
    "rank_timeout",
    "compile",
    "tune",
}
# about boxes, of which a classifier knows nothing
BOX_FLAGS = (
    "letterbox",
    "mixup",
    "copy_paste",
    "close_jitter",
    "scale",
    "translate",
    "shear",
    "sat",
    "dropblock",
    "best_by",
)
SEARCH_FLAGS = frozenset(("--tune", "--tune-space", "--tune-pruner", "--out"))
LENGTH_FLAGS = frozenset(("--epochs", "--iterations"))


def parse_train_flags(argv: Sequence[str]) -> TrainFlags:
    """Flags of a new run, or those of the run ``--resume`` names with the few that may change.

    Raises:
        UsageError: unknown or contradicting flags.
        InputError: ``--resume`` names no run.
    """
    parser = make_parser()
    args = parser.parse_args(argv, namespace=TrainFlags())
    if args.check is not None and (args.resume or args.tune):
        raise UsageError("train.py: --check looks at what a new run would train; give it without --resume and --tune")
    if args.resume is None:
        args.set = dict(_assignment(text) for text in args.set)
        if args.cfg is None:
            raise UsageError("train.py: --cfg is needed, for example --cfg yolov4-tiny-mish.cfg")
        args.fit_memory, args.batch = args.batch == AUTO, None if args.batch == AUTO else args.batch
        _apply_recipe(args)
        return args
    return _resumed(parser, argv, args.resume)


def save_args(args: TrainFlags, path: Path) -> None:
    """Keep the flags of a run, for people and for ``--resume``."""
    path.write_text(
        json.dumps({key: _plain(value) for key, value in vars(args).items()}, indent=1) + "\n", encoding="utf-8"
    )


def without_flags(argv: Sequence[str], names: Collection[str]) -> list[str]:
    """The words of a command line without the flags ``names``, each of which takes a value."""
    parser = cli.Parser(prog="train.py", add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(name)
    return parser.parse_known_args(argv)[1]


def _resumed(parser: argparse.ArgumentParser, argv: Sequence[str], folder: Path) -> TrainFlags:
    file = folder / "args.json"
    if not file.is_file():
        raise InputError(f"{folder}: no run to resume (wanted a folder of train.py with args.json and last.pt)")
    saved = _saved_flags(parser, file)
    saved.set = dict(saved.set)
    _apply_recipe(saved)  # for flags that are younger than the run
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    given = vars(parser.parse_args(argv))
    refused = set(given) - FREE_ON_RESUME
    if refused:
        flags = ", ".join(sorted(action.option_strings[-1] for action in parser._actions if action.dest in refused))
        raise UsageError(
            f"train.py: --resume goes on as the run began; {flags} cannot change (start a new run with --weights)"
        )
    if "epochs" in given or "iterations" in given:
        saved.epochs = saved.iterations = None
    for key, value in given.items():
        setattr(saved, key, value)
    saved.out = str(folder)
    saved.size = (saved.size[0], saved.size[1]) if saved.size else None
    return saved


def _saved_flags(parser: argparse.ArgumentParser, file: Path) -> TrainFlags:
    """The flags in args.json; those that came later into being have their defaults."""
    try:
        flags = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: not the flags of a run ({error}); start a new run with --weights") from None
    return TrainFlags(**{**vars(parser.parse_args([])), **flags})


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise UsageError(f"--set {text}: wanted KEY=VALUE, for example --set learning_rate=0.001")
    return key.strip(), value.strip()


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _apply_recipe(args: TrainFlags) -> None:
    """Fill in what ``args.recipe`` says and nobody gave, in place.

    A learning rate given by hand is meant for the batch of this run and is not scaled.
    """
    recipe = RECIPES[args.recipe]
    if "learning_rate" in args.set and args.nominal_batch is None:
        args.nominal_batch = 0
    for flag, value in recipe.flags.items():
        if getattr(args, flag) is None:
            setattr(args, flag, value)
    args.set = {**recipe.keys, **args.set}
