"""How much each class counts: ``--class-weights``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from utils.errors import InputError, UsageError

AUTO, NONE = "auto", "none"
MOST = 10.0  # what ``auto`` gives at most
_WIDEST = 1e4  # the largest weight over the least
_RESOLUTION = 10**6  # of weights as counts


def class_weights(text: str, names: Sequence[str], counts: Sequence[int]) -> list[float]:
    """The weight of each class, the least of them 1.

    Args:
        text: ``auto`` gives rare classes more, by the square root of how much rarer they are than the commonest, up to
            `MOST`; else numbers with commas between, or a file with ``NAME WEIGHT`` on each line, where classes that it
            does not name have 1.
        names: the classes.
        counts: objects of each in the training images.

    Raises:
        UsageError: numbers that are no weights, or not one for each class.
        InputError: a file that says something else.
    """
    if text == AUTO:
        weights = [min(MOST, math.sqrt(max(1, *counts) / max(1, count))) for count in counts]
    elif Path(text).is_file():
        weights = _from_file(Path(text), names)
    else:
        weights = [_weight(part, f"--class-weights {text}", UsageError) for part in text.split(",")]
    if len(weights) != len(names):
        raise UsageError(f"--class-weights {text}: {len(weights)} numbers (wanted {len(names)}, one for each class)")
    if max(weights) > _WIDEST * min(weights):
        raise UsageError(f"--class-weights {text}: {min(weights):g} to {max(weights):g} (wanted at most x {_WIDEST:g})")
    return [weight / min(weights) for weight in weights]


def as_counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as ``counters_per_class`` of a cfg spells them: so many objects, of which the rarest weigh most."""
    return tuple(round(_RESOLUTION / weight) for weight in weights)


def weights_line(names: Sequence[str], weights: Sequence[float]) -> str:
    """For people."""
    shown = ", ".join(f"{name} {weight:.3g}" for name, weight in list(zip(names, weights, strict=True))[:12])
    return f"class weights: {shown}" + (" ..." if len(names) > 12 else "")


def _from_file(path: Path, names: Sequence[str]) -> list[float]:
    found: dict[str, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        *name, weight = line.rsplit(maxsplit=1)
        if not name or name[0].strip() not in names:
            raise InputError(f"{path}:{number}: {line.strip()[:80]} (wanted NAME WEIGHT, names of the data set)")
        found[name[0].strip()] = _weight(weight, f"{path}:{number}", InputError)
    return [found.get(name, 1.0) for name in names]


def _weight(text: str, where: str, kind: type[UsageError | InputError]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise kind(f"{where}: {text.strip()!r} is no weight (wanted numbers above 0, auto, none, or a file)")
    return value
