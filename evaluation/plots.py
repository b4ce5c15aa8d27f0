"""Pictures of an evaluation: precision over recall, the confusion matrix, the images with most mistakes.

Figures are built without pyplot, so nothing global is touched and any thread may draw.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from evaluation.coco import CocoMetrics
from evaluation.confusion import ImageMatches
from utils.atomic import atomic_write

DPI = 110
LONGER_SIDE = 9.0  # inches of a drawn image
TRUTH_COLOUR, DETECTION_COLOUR = "#0b8a3a", "#d6246e"
_CURVE_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_OUTLINE = [patheffects.Stroke(linewidth=5, foreground="white", alpha=0.75), patheffects.Normal()]


def plot_precision_recall(metrics: CocoMetrics, path: Path) -> None:
    """Precision over recall at IoU .50: every class light, the best eight coloured, the mean bold."""
    names = list(metrics.per_class)
    measured = [label for label in range(len(names)) if metrics.precision50[label].min() >= 0]
    ranked = sorted(measured, key=lambda label: -metrics.per_class[names[label]].ap50)
    recall = np.linspace(0, 1, metrics.precision50.shape[1])
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    handles = []
    for label in ranked[len(_CURVE_COLOURS) :]:
        axes.plot(recall, metrics.precision50[label], color="#b8bec6", linewidth=0.8)
    for label, colour in zip(ranked, _CURVE_COLOURS, strict=False):
        (line,) = axes.plot(recall, metrics.precision50[label], color=colour, linewidth=1.3)
        handles.append((line, f"{_plain(names[label])}  {metrics.per_class[names[label]].ap50:.3f}"))
    if measured:
        (line,) = axes.plot(recall, metrics.precision50[measured].mean(axis=0), color="black", linewidth=3)
        handles.insert(0, (line, f"mean ({len(measured)} measured)  {metrics.ap50:.3f}"))
        others = len(ranked) - len(_CURVE_COLOURS)
        if others > 0:
            handles.append((Line2D([], [], color="#b8bec6"), f"{others} other classes"))
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title("Precision over recall at IoU 0.50", loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if handles:
        lines, labels = zip(*handles, strict=True)
        figure.legend(lines, labels, loc="outside right upper", frameon=False, title="AP50", alignment="left")
    _save(figure, path)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw the counts of ``confusion_matrix`` (K+1, K+1), each row as shares of its sum.

    Classes with neither objects nor detections are left out, so that a small set of many classes stays readable.
    """
    present = np.flatnonzero((matrix.sum(axis=0) + matrix.sum(axis=1))[:-1] > 0)
    kept = np.append(present, len(names))
    counts = matrix[np.ix_(kept, kept)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ticks = [*(_plain(names[int(label)]) for label in present), "background"]
    cell = float(np.clip(8.0 / len(kept), 0.22, 1.0))  # inches
    font = float(np.clip(cell * 28, 6.5, 11))
    heading = float(np.clip(cell * len(kept), 11, 22))
    figure = Figure(figsize=(cell * len(kept) + 2.5, cell * len(kept) + 2.0))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(kept)), ticks, rotation=90, fontsize=font)
    totals = counts.sum(axis=1)
    axes.set_yticks(range(len(kept)), [f"{tick} ({n})" for tick, n in zip(ticks, totals, strict=True)], fontsize=font)
    axes.set_xlabel("detected as  (background: missed)", fontsize=heading)
    axes.set_ylabel("object  (background: false)", fontsize=heading)
    axes.set_title("Confusion at IoU 0.50, % of each row", fontsize=heading + 2)
    axes.set_xticks(np.arange(len(kept) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(kept) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dfe4ea", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for row, column in np.argwhere(shares >= 0.005):
        colour = "white" if shares[row, column] > 0.55 else "#1b2733"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=font * 0.9, color=colour)
    _save(figure, path)


def plot_mistakes(matches: ImageMatches, image: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw one image with its truth in green and its detections in magenta; mistakes are thick and labelled.

    Args:
        image: uint8 (H, W, 3) RGB.
    """
    figure, axes = _image_page(image)
    record = matches.record
    for box, label, missed in zip(record.boxes, record.labels, matches.missed, strict=True):
        _rectangle(axes, box, TRUTH_COLOUR, missed)
        if missed:
            _label(axes, names[label], box, TRUTH_COLOUR, at_top=True)
    for box, label, score, false in zip(matches.boxes, matches.labels, matches.scores, matches.false, strict=True):
        _rectangle(axes, box, DETECTION_COLOUR, false)
        if false:
            _label(axes, f"{names[label]} {score:.2f}", box, DETECTION_COLOUR, at_top=False)
    summary = f"{record.path.name}:  {int(matches.missed.sum())} missed, {int(matches.false.sum())} false"
    axes.set_title(_plain(summary), loc="left", fontsize=13)
    figure.legend(
        [Line2D([], [], color=TRUTH_COLOUR, linewidth=3), Line2D([], [], color=DETECTION_COLOUR, linewidth=3)],
        ["truth (thick: missed)", "detection (thick: false)"],
        loc="lower left",
        ncols=2,
        frameon=False,
    )
    _save(figure, path)


def worst_images(matches: Sequence[ImageMatches], count: int) -> list[ImageMatches]:
    """The ``count`` images with most mistakes, worst first; images without a mistake are never among them."""
    ranked = sorted(matches, key=lambda image: (-image.mistakes, image.record.image_id))
    return [image for image in ranked[:count] if image.mistakes]


def _image_page(image: np.ndarray) -> tuple[Figure, Axes]:
    """A page with the image, and 0.4 inches above and below for text."""
    height, width = image.shape[:2]
    inches = LONGER_SIDE / max(height, width)
    page_width, page_height = max(width * inches, 4.5), height * inches + 0.8
    figure = Figure(figsize=(page_width, page_height))
    axes = figure.add_axes((0, 0.4 / page_height, 1, height * inches / page_height), anchor="W")
    axes.imshow(image)
    axes.set_axis_off()
    axes.autoscale(False)
    return figure, axes


def _rectangle(axes: Axes, box: np.ndarray, colour: str, thick: bool) -> None:
    left, top, right, bottom = (float(value) for value in box)
    style = {"linewidth": 2.6, "path_effects": _OUTLINE} if thick else {"linewidth": 1.2}
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, **style))


def _label(axes: Axes, text: str, box: np.ndarray, colour: str, *, at_top: bool) -> None:
    """A label at the top of truth or the bottom of detections, so that both can be read; outside small boxes."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    left, top, right, bottom = (float(value) for value in np.clip(box, 0, (width, height, width, height)))
    inside = bottom - top > 0.4 * max(width, height) / LONGER_SIDE  # 0.4 inches
    anchored_right = left > 0.85 * width
    axes.text(
        right if anchored_right else left,
        top if at_top else bottom,
        _plain(text),
        fontsize=8,
        color="white",
        ha="right" if anchored_right else "left",
        va="top" if at_top == inside else "bottom",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2, "alpha": 0.9},
    )


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs in names as mathematics."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings(), atomic_write(path) as file:
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks is drawn as boxes
        figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
