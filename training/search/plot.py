"""search.png: the score of every trial against each parameter, the most influential first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from training.search.report import influence, ranked
from training.search.space import Parameter
from training.search.study import COMPLETE, Trial
from utils.atomic import atomic_write

_COLUMNS = 4
_FULL, _GIVEN_UP, _BEST = "#1f77b4", "#bbbbbb", "#d62728"


def plot_search(space: Sequence[Parameter], trials: Sequence[Trial], path: Path, title: str) -> None:
    """Draw the scores over the trials, then over each parameter."""
    found = {parameter.name: influence(parameter, trials) for parameter in space}
    space = sorted(space, key=lambda parameter: -(found[parameter.name] or 0.0))
    rows = math.ceil((1 + len(space)) / _COLUMNS)
    figure, grid = plt.subplots(
        rows, _COLUMNS, figsize=(4 * _COLUMNS, 3 * rows), layout="constrained", squeeze=False, sharey=True
    )
    first, *others = grid.flat
    _points(first, [trial.index + 1 for trial in trials], trials)
    first.set_title("over the trials")
    first.set_xlabel("trial")
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, parameter in zip(others, space, strict=False):
        _over(axis, parameter, trials)
        known = found[parameter.name]
        axis.set_title(parameter.name + ("" if known is None else f": influence {known:.2f}"))
        axis.set_xlabel(parameter.meaning)
    for axis in others[len(space) :]:
        axis.axis("off")
    for row in grid:
        row[0].set_ylabel(title)
    figure.suptitle(f"{title} of {len(trials)} trials; red: the best, grey: given up early")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=90)
    plt.close(figure)


def _over(axis: Axes, parameter: Parameter, trials: Sequence[Trial]) -> None:
    """The trials in which ``parameter`` took part."""
    part = [trial for trial in trials if parameter.name in trial.values]
    values: list[Any] = [trial.values[parameter.name] for trial in part]
    if parameter.choices:
        axis.set_xticks(range(len(parameter.choices)), parameter.choices)
        axis.set_xlim(-0.5, len(parameter.choices) - 0.5)
        values = [parameter.choices.index(value) for value in values]
    else:
        axis.set_xscale("log" if parameter.log else "linear")
        axis.set_xlim(parameter.low, parameter.high)
    _points(axis, values, part, best_of=trials)


def _points(axis: Axes, x: Sequence[float], trials: Sequence[Trial], best_of: Sequence[Trial] | None = None) -> None:
    best = next(iter(ranked(best_of or trials)), None)
    for value, trial in zip(x, trials, strict=True):
        if trial.score is not None:
            colour = _BEST if trial is best else _FULL if trial.outcome == COMPLETE else _GIVEN_UP
            axis.plot(value, trial.score, "o", color=colour, markersize=5, clip_on=False, zorder=2 + (trial is best))
    axis.grid(alpha=0.3)
