"""training.search.space: the table, what of it a training can use, and the flags that come out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.cfg import read_cfg
from training.flags import parse_train_flags
from training.search.space import (
    BOXES,
    DARKNET,
    GROUPS,
    HEADS,
    SGD,
    SPACE,
    WEIGHTED,
    Parameter,
    Situation,
    flags_for,
    matters,
    search_space,
)
from utils.errors import UsageError

BASE = ["--cfg", "yolov4-tiny-mish.cfg"]
ANY = Situation("darknet", frozenset((HEADS, SGD, BOXES, WEIGHTED)))
BY_NAME = {parameter.name: parameter for parameter in SPACE}


def names(text: str | None, situation: Situation = ANY) -> list[str]:
    return [parameter.name for parameter in search_space(text, situation)]


def test_the_names_are_distinct_and_no_group_is_called_like_a_parameter() -> None:
    assert len(BY_NAME) == len(SPACE)
    assert not set(BY_NAME) & set(GROUPS)


@pytest.mark.parametrize("parameter", SPACE, ids=lambda parameter: parameter.name)
@settings(max_examples=8)
@given(part=st.floats(0, 1))
def test_every_value_is_one_that_train_takes(parameter: Parameter, part: float) -> None:
    value = parameter.low + part * (parameter.high - parameter.low)
    for one in parameter.choices or (value, parameter.low, parameter.high):
        args = parse_train_flags([*BASE, *flags_for((parameter,), {parameter.name: one})])
        read_cfg(args)  # an unknown key, or a value beyond what it may be, is an error
        head, _, key = parameter.flag.partition(" ")
        found = args.set[key] if key else getattr(args, head.removeprefix("--").replace("-", "_"))
        assert found == one or float(found) == pytest.approx(one, rel=1e-5)


def test_the_table_of_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    table = text.partition("| group | name | sets | range | |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    found: dict[str, tuple[str, str]] = {}
    for _, names_, sets, ranges, _ in rows:
        columns = [re.findall("`(.*?)`", column) for column in (names_, sets)]
        bounds = ranges.removesuffix(", logarithmic").replace(", ", " ").split()
        for place, (name, target) in enumerate(zip(*columns, strict=True)):
            own = "|".join(bounds) if BY_NAME[name].choices else bounds[place if len(bounds) > 1 else 0]
            found[name] = (target, own + ", log" * ("logarithmic" in ranges))
    assert found == {
        one.name: (one.flag.removeprefix("--set ").removeprefix("yolo."), _plain(one) + ", log" * one.log)
        for one in SPACE
    }


def _plain(parameter: Parameter) -> str:
    """A range without exponents."""
    if parameter.choices:
        return "|".join(parameter.choices)
    return "..".join(f"{bound:.5f}".rstrip("0").rstrip(".") for bound in (parameter.low, parameter.high))


def test_a_logarithmic_range_does_not_begin_at_nothing() -> None:
    assert all(parameter.low > 0 for parameter in SPACE if parameter.log)


def test_what_fits_the_situation() -> None:
    everything = set(BY_NAME) - {"scale", "translate"}  # jitter takes their place in Darknet's recipe
    assert set(names(None)) == everything
    assert set(names(None, Situation("scaled", ANY.has))) == set(BY_NAME) - {"jitter"}
    assert set(names(None, Situation("darknet", ANY.has - {SGD, WEIGHTED}))) == everything - {"momentum", "classes"}
    # a classifier
    assert set(names(None, Situation("darknet", frozenset((SGD,))))) == {
        *("learning_rate", "momentum", "decay", "warm_up", "mosaic", "hue", "saturation", "exposure")
    }
    # [region] heads: Darknet's loss, but none of the keys of [yolo]
    other = set(names(None, Situation("darknet", frozenset((SGD, BOXES)))))
    assert not other & {parameter.name for parameter in SPACE if parameter.needs in (HEADS, DARKNET, WEIGHTED)}


def test_named_parameters_and_groups() -> None:
    assert names("mosaic, optimiser") == ["mosaic", "learning_rate", "momentum", "decay", "warm_up"]
    assert names("scale") == ["scale"]  # asked for, in whatever recipe
    (box,) = search_space("box=0.05..0.5", ANY)
    assert (box.low, box.high, box.log) == (0.05, 0.5, True)
    (loss,) = search_space("loss=darknet|scaled", ANY)
    assert loss.choices == ("darknet", "scaled")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("learning_rat", "wanted names out of optimiser, losses, images, colour, learning_rate"),
        ("losses=1..2", "wanted names out of"),
        ("box=1", "=1: not a range \\(wanted such as 0.02..1\\)"),
        ("box=2..1", "not a range"),
        ("box=0..1", "not a range"),
        ("mixup=a..b", "not a range"),
        ("mixup=0..inf", "not a range"),
        ("loss=darknet|focal", "not a range \\(wanted such as darknet|scaled|simota\\)"),
        ("", "nothing of it changes this training"),
    ],
)
def test_what_is_no_space(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"^--tune-space {text and text.split('=')[0]}.*{reason}"):
        search_space(text, ANY)


def test_asked_for_but_without_effect() -> None:
    with pytest.raises(UsageError, match="--tune-space classes: nothing of it changes this training"):
        search_space("classes", Situation("darknet", frozenset((HEADS, BOXES))))


def test_parameters_of_darknets_loss_do_not_matter_to_others() -> None:
    assert matters(BY_NAME["box"], "darknet") and not matters(BY_NAME["box"], "scaled")
    assert not matters(BY_NAME["classes"], "simota") and matters(BY_NAME["mosaic"], "simota")


def test_values_beyond_the_range_are_drawn_to_its_end() -> None:
    assert BY_NAME["momentum"].nearest(0.5) == 0.8
    assert BY_NAME["momentum"].nearest(0.9) == 0.9
    assert BY_NAME["decay"].nearest(0) == 1e-5
    assert BY_NAME["loss"].nearest("scaled") == "scaled"


def test_flags_follow_the_table_and_leave_out_what_has_no_value() -> None:
    values = {"mosaic": 0.25, "learning_rate": 0.00123456789, "loss": "scaled"}
    wanted = ["--set", "learning_rate=0.00123457", "--loss", "scaled", "--mosaic", "0.25"]
    assert flags_for(SPACE, values) == wanted
