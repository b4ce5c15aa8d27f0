"""What ``train.py --tune`` tries: the table of parameters, their ranges, and the flags of train.py that set them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from utils.errors import UsageError

Value = float | str
HEADS, DARKNET, WEIGHTED, SGD, BOXES = "yolo heads", "darknet's loss", "class weights", "momentum", "boxes"


@dataclass(frozen=True)
class Parameter:
    """One thing to search over.

    Attributes:
        name: how ``--tune-space``, tables and pictures call it.
        flag: of train.py, or ``--set KEY``, which takes the value.
        group: ``--tune-space`` takes whole groups, too.
        low, high: the range of a number.
        log: whether its size matters rather than its difference: it is drawn evenly between the logarithms.
        choices: instead of a range.
        needs: what a trial must have for the parameter to change anything; see `Situation`.
        recipes: the only ``--recipe`` values it is searched with by default; empty: with each.
        meaning: for people.
    """

    name: str
    flag: str
    group: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()
    needs: str = ""
    recipes: tuple[str, ...] = ()
    meaning: str = ""

    def range_text(self) -> str:
        """The range as ``--tune-space`` spells it."""
        return "|".join(self.choices) if self.choices else f"{self.low:g}..{self.high:g}"

    def nearest(self, value: Value) -> Value:
        """``value``, or the end of the range it lies beyond."""
        return value if self.choices else min(max(float(value), self.low), self.high)

    def flags(self, value: Value) -> list[str]:
        """The words on train.py's command line that give it ``value``."""
        text = value if isinstance(value, str) else f"{value:.6g}"
        head, _, key = self.flag.partition(" ")
        return [head, f"{key}={text}"] if key else [head, text]


SPACE = (
    Parameter("learning_rate", "--set learning_rate", "optimiser", 1e-4, 3e-2, log=True, meaning="at its highest"),
    Parameter("momentum", "--set momentum", "optimiser", 0.8, 0.98, needs=SGD, meaning="of SGD"),
    Parameter("decay", "--set decay", "optimiser", 1e-5, 1e-2, log=True, meaning="of the weights"),
    Parameter("warm_up", "--warm-up", "optimiser", 0.0, 0.2, meaning="share of the iterations"),
    Parameter("loss", "--loss", "losses", choices=("darknet", "scaled", "simota"), needs=HEADS, meaning="whole losses"),
    Parameter("box", "--set yolo.iou_normalizer", "losses", 0.02, 1.0, log=True, needs=DARKNET, meaning="weight"),
    Parameter("objectness", "--set yolo.obj_normalizer", "losses", 0.3, 3, log=True, needs=DARKNET, meaning="weight"),
    Parameter(
        "classes",
        "--set yolo.cls_normalizer",
        "losses",
        0.2,
        3,
        log=True,
        needs=WEIGHTED,
        meaning="weight",
    ),
    Parameter("ignore_thresh", "--set yolo.ignore_thresh", "losses", 0.4, 0.9, needs=DARKNET, meaning="IoU"),
    Parameter("label_smoothing", "--set yolo.label_smooth_eps", "losses", 0.0, 0.2, needs=HEADS, meaning="of classes"),
    Parameter("mosaic", "--mosaic", "images", 0.0, 1.0, meaning="share of the images"),
    Parameter("mixup", "--mixup", "images", 0.0, 0.5, needs=BOXES, meaning="share of the images"),
    Parameter("copy_paste", "--copy-paste", "images", 0.0, 0.5, needs=BOXES, meaning="share of the images"),
    Parameter(
        "jitter",
        "--set yolo.jitter",
        "images",
        0.0,
        0.5,
        needs=HEADS,
        recipes=("auto", "darknet", "balanced"),
        meaning="crop, part of a side",
    ),
    Parameter(
        "scale", "--scale", "images", 0.0, 0.9, needs=BOXES, recipes=("scaled",), meaning="zoom by 1 - S to 1 + S"
    ),
    Parameter(
        "translate", "--translate", "images", 0.0, 0.3, needs=BOXES, recipes=("scaled",), meaning="move, part of a side"
    ),
    Parameter("hue", "--set hue", "colour", 0.0, 0.2, meaning="part of the circle"),
    Parameter("saturation", "--set saturation", "colour", 1.0, 2.5, meaning="at most so many times"),
    Parameter("exposure", "--set exposure", "colour", 1.0, 2.5, meaning="at most so many times"),
)
GROUPS = tuple(dict.fromkeys(parameter.group for parameter in SPACE))


@dataclass(frozen=True)
class Situation:
    """What decides which parameters change anything.

    Attributes:
        recipe: ``--recipe``.
        has: of `HEADS` (nothing but [yolo] heads), `WEIGHTED` (classes are weighed), `SGD`, `BOXES` (a detector).
    """

    recipe: str = "auto"
    has: frozenset[str] = frozenset()

    def can_have(self, parameter: Parameter) -> bool:
        """Whether there are trials in which ``parameter`` matters."""
        wanted = {DARKNET: {HEADS}, WEIGHTED: {HEADS, WEIGHTED}}.get(parameter.needs, {parameter.needs} - {""})
        return wanted <= self.has


def _belongs(parameter: Parameter, situation: Situation) -> bool:
    return not parameter.recipes or situation.recipe in parameter.recipes


def search_space(text: str | None, situation: Situation) -> tuple[Parameter, ...]:
    """The parameters to search over.

    Args:
        text: names and groups with commas between, each name with a range of its own where wanted:
            ``optimiser,mosaic,box=0.05..0.5,loss=darknet|scaled``. None is all that fits the situation.

    Raises:
        UsageError: an unknown name, or a range that is none.
    """
    fitting = [parameter for parameter in SPACE if situation.can_have(parameter)]
    if text is None:
        return tuple(parameter for parameter in fitting if _belongs(parameter, situation))
    chosen: dict[str, Parameter] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, bounds = item.partition("=")
        named = [parameter for parameter in SPACE if name in (parameter.name, "" if equals else parameter.group)]
        if not named:
            known = ", ".join((*GROUPS, *(parameter.name for parameter in SPACE)))
            raise UsageError(f"--tune-space {item}: wanted names out of {known}")
        named = [_with_range(parameter, bounds) if equals else parameter for parameter in named]
        chosen |= {parameter.name: parameter for parameter in named if situation.can_have(parameter)}
    if not chosen:
        raise UsageError(
            f"--tune-space {text}: nothing of it changes this training; docs/training.md says what wants what"
        )
    return tuple(chosen.values())


def matters(parameter: Parameter, loss: str) -> bool:
    """Whether ``parameter`` changes anything in a trial with ``loss``."""
    return parameter.needs not in (DARKNET, WEIGHTED) or loss == "darknet"


def flags_for(space: Sequence[Parameter], values: Mapping[str, Value]) -> list[str]:
    """The words on train.py's command line for a trial's ``values``."""
    return [word for parameter in space if parameter.name in values for word in parameter.flags(values[parameter.name])]


def _with_range(parameter: Parameter, text: str) -> Parameter:
    """``parameter`` with the range ``text``: LOW..HIGH, or A|B of its choices."""
    if parameter.choices:
        choices = tuple(text.split("|"))
        if set(choices) <= set(parameter.choices):
            return replace(parameter, choices=choices)
    else:
        low, dots, high = text.partition("..")
        try:
            bounds = float(low), float(high or low)
        except ValueError:
            bounds = math.nan, math.nan
        least = 1e-12 if parameter.log else 0.0
        if dots and math.isfinite(bounds[1]) and least <= bounds[0] < bounds[1]:
            return replace(parameter, low=bounds[0], high=bounds[1])
    raise UsageError(f"--tune-space {parameter.name}={text}: not a range (wanted such as {parameter.range_text()})")
