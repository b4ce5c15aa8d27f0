"""Pictures of a training: a batch as the network sees it, what the network finds, and how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from training.log import metric_title, shown_metrics
from utils.atomic import atomic_write
from utils.draw import batch_grid
from utils.image import read_image
from utils.structures import Batch, Detections, ImageRecord, LabelledBatch

_SHOWN_SCORE = 0.25  # of the detections that are drawn
_SHOWN_SHARE = 0.15  # of the classes that are named; label smoothing leaves less to each
_INSET = 0.12  # of the shorter side, between the frames of two classes
_LOSSES = ("loss", "box", "objectness", "classes")
_COLOURS = {"loss": "#222222", "box": "#1f77b4", "objectness": "#d62728", "classes": "#2ca02c"}
_METRIC_COLOURS = ("#1f77b4", "#ff7f0e", "#7f7f7f")


def batch_picture(batch: Batch, names: Sequence[str], count: int = 16) -> np.ndarray:
    """The first ``count`` images of a mini-batch with their truth, side by side: uint8 (H, W, 3) RGB."""
    rows = [batch.targets.image_index == index for index in range(min(len(batch.images), count))]
    return batch_grid(
        [image.permute(1, 2, 0).numpy() for image in batch.images[: len(rows)]],
        [batch.targets.boxes[row].numpy() for row in rows],
        [batch.targets.labels[row].numpy() for row in rows],
        names,
    )


def class_picture(batch: LabelledBatch, names: Sequence[str], count: int = 16) -> np.ndarray:
    """The first ``count`` images of a classifier's mini-batch with the classes they show: uint8 (H, W, 3) RGB.

    Each class is a frame with its name, the largest share outermost.
    """
    height, width = batch.images.shape[2:]
    boxes, labels = [], []
    for truth in batch.truth[:count]:
        shown = [int(label) for label in truth.argsort(descending=True, stable=True) if truth[label] > _SHOWN_SHARE]
        insets = [_INSET * rank * min(height, width) for rank in range(len(shown))]
        boxes.append(np.array([[inset, inset, width - inset, height - inset] for inset in insets]))
        labels.append(np.array(shown))
    images = [image.permute(1, 2, 0).numpy() for image in batch.images[:count]]
    return batch_grid(images, boxes, labels, names)


def detections_picture(
    records: Sequence[ImageRecord], detections: Mapping[int, Detections], names: Sequence[str], count: int = 4
) -> np.ndarray:
    """The first ``count`` images with what was found in them, side by side: uint8 (H, W, 3) RGB.

    Args:
        detections: by ``image_id``.
    """
    records = records[:count]
    found = [detections[record.image_id] for record in records]
    sure = [detections.scores > _SHOWN_SCORE for detections in found]
    return batch_grid(
        [read_image(record.path) for record in records],
        [detections.boxes[keep].numpy() for detections, keep in zip(found, sure, strict=True)],
        [detections.labels[keep].numpy() for detections, keep in zip(found, sure, strict=True)],
        names,
    )


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
