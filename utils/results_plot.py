"""results.png: how a training run went, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from utils.atomic import atomic_write
from utils.runlog import metric_title, shown_metrics

_LOSSES = ("loss", "box", "objectness", "classes")
_COLOURS = {"loss": "#222222", "box": "#1f77b4", "objectness": "#d62728", "classes": "#2ca02c"}
_METRIC_COLOURS = ("#1f77b4", "#ff7f0e", "#7f7f7f")


def plot_results(rows: Sequence[Mapping[str, float]], path: Path, heading: str) -> None:
    """Draw losses, learning rate and evaluations of ``metrics.jsonl`` rows over the iterations."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    _losses(axes[0], [row for row in rows if "loss" in row])
    _learning_rate(axes[1], [row for row in rows if "lr" in row])
    _metrics(axes[2], [row for row in rows if shown_metrics(row)])
    for axis in axes:
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
    figure.suptitle(heading)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def _losses(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    axis.set_title("loss per image")
    if not rows:
        return
    x = np.array([row["iteration"] for row in rows])
    for name in _LOSSES:
        if name not in rows[0]:
            continue
        y = np.array([row[name] for row in rows])
        axis.plot(x, y, color=_COLOURS[name], alpha=0.15, linewidth=0.8)
        axis.plot(x, _smooth(y), color=_COLOURS[name], label=name)
    if any(row["loss"] > 0 for row in rows):
        axis.set_yscale("log")
    axis.legend(frameon=False)


def _learning_rate(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    axis.set_title("learning rate")
    axis.plot([row["iteration"] for row in rows], [row["lr"] for row in rows], color="#222222")


def _metrics(axis: Axes, rows: Sequence[Mapping[str, float]]) -> None:
    axis.set_title("validation")
    axis.set_ylim(0, 1)
    if not rows:
        return
    names = shown_metrics(rows[0])
    for name, colour in zip(names, _METRIC_COLOURS, strict=False):
        x, y = [row["iteration"] for row in rows], [row[name] for row in rows]
        axis.plot(x, y, "o-", markersize=3, color=colour, label=metric_title(name))
    best = max(rows, key=lambda row: row[names[0]])
    axis.set_title(f"validation: best {metric_title(names[0])} {best[names[0]]:.3f} at {best['iteration']}")
    axis.legend(frameon=False, loc="lower right")


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred running mean over about 2 % of the points."""
    width = max(1, len(values) // 50)
    kernel = np.ones(width) / width
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, kernel, mode="valid")
