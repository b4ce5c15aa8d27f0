"""A picture of anchors and the boxes they were fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, ScalarFormatter

from utils.anchors import anchor_fit, wh_iou
from utils.atomic import atomic_write
from utils.structures import Size

DPI = 110
_COLOURS = ("#1f6fb4", "#e07b00", "#2a9134", "#b5179e", "#7a5c00", "#0f8b8d", "#5b3fb0", "#c1121f", "#4a5a1a")
_OLD = "#30343b"
_MOST_BOXES = 15_000  # drawn
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def plot_anchors(
    wh: np.ndarray,
    anchors: np.ndarray,
    size: Size,
    path: Path,
    *,
    heads: Sequence[Sequence[int]] = (),
    before: np.ndarray | None = None,
) -> None:
    """Draw box sizes in the colour of the head that learns them (of their anchor, without), and the anchors to scale.

    Args:
        wh: (N, 2) box sizes, input pixels.
        anchors: (A, 2), by rising area.
        size: (H, W) of the network input.
        heads: the anchors of each head, the finest grid first; each anchor is of one.
        before: the anchors a cfg had, (B, 2).
    """
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    group_of = np.arange(len(anchors))
    for head, members in enumerate(heads):
        group_of[list(members)] = head
    colours = np.array([_COLOURS[group % len(_COLOURS)] for group in group_of])
    _draw_sizes(left, wh, anchors, colours, before)
    _draw_to_scale(right, anchors, colours, size)
    owners = group_of[wh_iou(wh, anchors).argmax(axis=1)]
    handles = [
        (Line2D([], [], marker="o", linestyle="", color=_COLOURS[head % len(_COLOURS)]), _share(owners, head))
        for head in range(len(heads))
    ]
    if before is not None:
        handles.append((Line2D([], [], marker="x", linestyle="", color=_OLD, markeredgewidth=2), "anchors before"))
    if handles:
        left.legend(*zip(*handles, strict=True), loc="upper left", framealpha=0.9)
    title = f"{len(anchors)} anchors for {len(wh):,} boxes:  {_fit(wh, anchors)}"
    if before is not None:
        title += f"   (before: {_fit(wh, before)})"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)


def _draw_sizes(
    axes: Axes, wh: np.ndarray, anchors: np.ndarray, colours: np.ndarray, before: np.ndarray | None
) -> None:
    """Width over height of every box, both logarithmic: equal ratios are equal distances, as they are to IoU."""
    shown = wh[:: max(1, len(wh) // _MOST_BOXES)]
    owner = wh_iou(shown, anchors).argmax(axis=1)
    axes.scatter(shown[:, 0], shown[:, 1], s=6, c=colours[owner], alpha=0.3, linewidths=0, rasterized=True)
    if before is not None:
        axes.scatter(before[:, 0], before[:, 1], s=170, marker="x", color=_OLD, linewidths=1.6, zorder=3)
    axes.scatter(anchors[:, 0], anchors[:, 1], s=230, c=colours, edgecolors="white", linewidths=1.6, zorder=4)
    for number, (width, height) in enumerate(anchors):
        axes.text(width, height, str(number), color="white", ha="center", va="center", fontsize=9, zorder=5)
    axes.set(xscale="log", yscale="log", xlabel="width, input pixels", ylabel="height, input pixels")
    axes.set_aspect("equal", adjustable="datalim")
    # the aspect widens the limits, which the ticks below go by
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # a Figure: nothing here has a SubFigure
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
        low, high = axis.get_view_interval()
        axis.set_ticks([tick for tick in _TICKS if low <= tick <= high])
    axes.set_title("Sizes of the boxes", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_to_scale(axes: Axes, anchors: np.ndarray, colours: np.ndarray, size: Size) -> None:
    """The anchors about one centre, in the frame of the network's input."""
    height, width = size
    axes.add_patch(Rectangle((0, 0), width, height, facecolor="#f4f5f7", edgecolor="#9aa3ad"))
    for number, ((w, h), colour) in reversed(list(enumerate(zip(anchors, colours, strict=True)))):
        corner = ((width - w) / 2, (height - h) / 2)
        axes.add_patch(Rectangle(corner, w, h, facecolor=colour, alpha=0.06))
        axes.add_patch(Rectangle(corner, w, h, fill=False, edgecolor=colour, linewidth=1.8))
        if min(w, h) > 0.04 * max(size):
            right, bottom = number % 2 == 0, number % 4 in (1, 2)  # like anchors follow each other: another corner each
            axes.text(
                corner[0] + w * right,
                corner[1] + h * bottom,
                f" {number} ",
                color=colour,
                fontsize=9,
                ha="right" if right else "left",
                va="bottom" if bottom else "top",
            )
    reach = np.maximum(anchors.max(axis=0), (width, height))
    axes.set_xlim((width - reach[0]) / 2 - 2, (width + reach[0]) / 2 + 2)
    axes.set_ylim((height + reach[1]) / 2 + 2, (height - reach[1]) / 2 - 2)
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_title(f"To scale in an input of {width} x {height}", loc="left")


def _fit(wh: np.ndarray, anchors: np.ndarray) -> str:
    fit = anchor_fit(wh, anchors)
    return f"average IoU {fit.average_iou:.3f}, recall {fit.recall:.3f}"


def _share(owners: np.ndarray, head: int) -> str:
    name = f"head {head + 1}" + (" (finest grid)" if head == 0 else "")
    return f"{name}: {100 * float((owners == head).mean()):.0f} % of the boxes"
