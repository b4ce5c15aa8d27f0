"""What type checking knows of flags is what the parsers make: the same names, values of the types written down."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from evaluation.flags import EvalFlags, parse_eval_flags
from export.flags import AnchorFlags, FormatFlags, PartialFlags, parse_export_flags
from inference.flags import DetectFlags, parse_detect_flags
from training.arguments import TrainFlags
from training.flags import parse_train_flags, save_args

TRAIN, EVAL, DETECT = ["--cfg", "a.cfg"], ["--data", "d", "--weights", "w.pt"], ["--source", "s", "--weights", "w.pt"]
CASES = [
    (TrainFlags, parse_train_flags, TRAIN),
    (
        TrainFlags,
        parse_train_flags,
        [*TRAIN, "--recipe", "scaled", "--batch", "8", "--size", "64"],
    ),
    (
        TrainFlags,
        parse_train_flags,
        [*TRAIN, "--cache", "disk", "--set", "momentum=.9", "--freeze", "backbone"],
    ),
    (EvalFlags, parse_eval_flags, EVAL),
    (EvalFlags, parse_eval_flags, [*EVAL, "--protocol", "darknet", "--json", "a.json", "--stretch"]),
    (DetectFlags, parse_detect_flags, DETECT),
    (DetectFlags, parse_detect_flags, [*DETECT, "--classes", "a", "b", "--out", "o", "--batch", "2"]),
    (FormatFlags, parse_export_flags, ["--weights", "w.pt", "--weights-out", "o.weights"]),
    (PartialFlags, parse_export_flags, ["partial", "--weights", "w.pt", "--layers", "3", "--out", "o"]),
    (AnchorFlags, parse_export_flags, ["anchors", "--data", "d"]),
    (AnchorFlags, parse_export_flags, ["anchors", "--data", "d", "--size", "64x32", "--plot", "a.png", "--num", "6"]),
]


@pytest.mark.parametrize(("flags", "parse", "argv"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_every_flag_has_its_name_and_type(flags: type, parse: Any, argv: Sequence[str]) -> None:
    args = parse(argv)
    hints = get_type_hints(flags)
    assert type(args) is flags
    assert sorted(vars(args)) == sorted(hints)
    assert {name: value for name, value in vars(args).items() if not fits(value, hints[name])} == {}


def test_flags_of_a_run_that_goes_on_are_of_the_same_types(tmp_path: Path) -> None:
    save_args(parse_train_flags([*TRAIN, "--size", "64"]), tmp_path / "args.json")
    args = parse_train_flags(["--resume", str(tmp_path)])
    hints = get_type_hints(TrainFlags)
    assert type(args) is TrainFlags
    assert {name: value for name, value in vars(args).items() if not fits(value, hints[name])} == {}


def fits(value: object, hint: Any) -> bool:
    """Whether ``value`` is of the type ``hint``; of containers the container."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    container = get_origin(hint) or hint
    return type(value) is hint if hint in (int, bool) else isinstance(value, container)


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [(1, int, True), (True, int, False), (1, float, True), (None, int | None, True), ("a", int | None, False),
     ((1, 2), tuple[int, int], True), ("x", Literal["a", "b"], False), (Path("a"), Path, True)],
)  # fmt: skip
def test_fits(value: object, hint: Any, wanted: bool) -> None:
    assert fits(value, hint) is wanted
