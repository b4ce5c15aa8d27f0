"""The picture of all studies of activations: a row for each, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from benchmarks.activation_runs import REFERENCE, Study
from benchmarks.intervals import differences, estimate
from training.log import metric_title
from utils.atomic import atomic_write

POINTS = 60  # of a loss curve: the picture stays small
Rows = Sequence[Mapping[str, float]]
# colour, line, marker: grey values apart from each other, and lines that differ without them
_STYLES = {
    "leaky": {"color": "#d9a12b", "ls": "-.", "marker": "s"},
    "relu": {"color": "#7a9a4a", "ls": ":", "marker": "^"},
    "swish": {"color": "#b0413e", "ls": "--", "marker": "D"},
    REFERENCE: {"color": "#123f6d", "ls": "-", "marker": "o"},
}
_OTHER = {"color": "#777777", "ls": "-", "marker": "x"}


def draw_studies(studies: Sequence[Study], path: Path) -> None:
    """Scores and losses over the iterations, and the differences paired by seed; nothing without a study."""
    if not studies:
        return
    figure, axes = plt.subplots(len(studies), 3, figsize=(13, 3.9 * len(studies)), layout="constrained", squeeze=False)
    for study, (left, middle, right) in zip(studies, axes, strict=True):
        _scores(left, study)
        _losses(middle, study)
        _differences(right, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same picture is the same file
    with plt.rc_context({"svg.hashsalt": path.stem}), atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _scores(axis: Axes, study: Study) -> None:
    """The metric that decides at each evaluation: mean, and the range of the seeds as a band."""
    metric = study.metrics()[0]
    for activation in study.activations:
        curves = [_curve(rows, metric) for rows in study.histories(activation).values()]
        if curves:
            iterations, values = curves[0][0], np.stack([values for _, values in curves])
            _mean_and_band(axis, activation, iterations, values, markersize=5)
    title = metric_title(metric)
    axis.set(title=f"{study.title}: {title}", xlabel="iteration", ylabel=f"{title}, mean and range of the seeds")
    axis.legend(frameon=False, loc="lower right")
    _bare(axis)


def _losses(axis: Axes, study: Study) -> None:
    """The loss in the same way, averaged over stretches of iterations."""
    for activation in study.activations:
        curves = [_stretches(*_curve(rows, "loss")) for rows in study.histories(activation).values()]
        if curves:
            iterations, values = curves[0][0], np.stack([values for _, values in curves])
            _mean_and_band(axis, activation, iterations, values, markersize=4, markevery=len(iterations) // 6 or 1)
    least, largest = axis.dataLim.intervaly
    wide = 0 < 10 * least < largest  # a detector's loss falls by powers of ten
    axis.set(title="training loss", xlabel="iteration", ylabel="loss an image", yscale="log" if wide else "linear")
    axis.legend(frameon=False, loc="upper right")
    _bare(axis)


def _differences(axis: Axes, study: Study) -> None:
    """Reference minus each other: every seed a small dot, the mean a large one with its 95 % interval."""
    metric = study.metrics()[0]
    reference = study.scores(REFERENCE, metric)
    others = [activation for activation in study.activations if activation != REFERENCE]
    for place, other in enumerate(others):
        found = differences(reference, study.scores(other, metric))
        if found:
            mean = estimate(found)
            axis.errorbar(mean.mean, place, xerr=mean.margin, fmt="o", color="black", ms=7, capsize=5, lw=1.6)
            axis.plot(found, [place + 0.22] * len(found), "o", ms=4, mfc="white", mec="#444444")
    axis.axvline(0, color="#777777", lw=1)
    axis.set_yticks(range(len(others)), [f"{REFERENCE} - {other}" for other in others])
    axis.set(ylim=(max(len(others), 1) - 0.5, -0.5), title=f"difference in {metric_title(metric)} at the end")
    axis.set_xlabel("mean with 95 % interval (t); below it each seed")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.3)


def _mean_and_band(axis: Axes, activation: str, x: np.ndarray, values: np.ndarray, **line: object) -> None:
    """The mean over the first axis of ``values`` (seeds, points), and from the least to the largest as a band."""
    style = _STYLES.get(activation, _OTHER)
    width = 2.2 if activation == REFERENCE else 1.4
    axis.fill_between(x, values.min(0), values.max(0), color=style["color"], alpha=0.15, lw=0)
    axis.plot(x, values.mean(0), label=activation, lw=width, **style, **line)


def _curve(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Iterations and values of the rows that have ``name``."""
    pairs = [(row["iteration"], row[name]) for row in rows if name in row]
    iterations, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return iterations, values


def _stretches(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over equal stretches, `POINTS` at most."""
    parts = min(POINTS, len(x))
    return tuple(np.array([part.mean() for part in np.array_split(values, parts)]) for values in (x, y))


def _bare(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.3)
