"""Draws the pictures of the documentation: python docs/pictures.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).parent
COLOURS = {"file": "#f3efe4", "data": "#dcebf7", "model": "#e3f2df", "result": "#fbe3d6"}

# name -> (x, y, kind, title, what it is)
BOXES = {
    "cfg": (0.0, 2.0, "file", ".cfg", "the layers, as text"),
    "weights": (0.0, 1.0, "file", ".weights / .pt", "what they have learned"),
    "images": (0.0, 0.0, "file", "images, labels", "COCO, YOLO, Darknet"),
    "network": (2.1, 1.5, "model", "models.darknet", "layers and heads"),
    "loader": (2.1, 0.0, "data", "data.loading", "mosaic, jitter, colour"),
    "raw": (4.2, 0.75, "model", "raw heads", "guesses for every cell"),
    "loss": (6.3, 1.5, "model", "targets, losses", "train.py: learn from them"),
    "post": (6.3, 0.0, "model", "decode, NMS", "eval.py, detect.py"),
    "best": (8.4, 1.5, "result", "best.pt, .weights", "for here and for Darknet"),
    "found": (8.4, 0.0, "result", "detections", "COCO AP, drawings, json"),
}
ARROWS = [
    ("cfg", "network"), ("weights", "network"), ("images", "loader"), ("network", "raw"), ("loader", "raw"),
    ("raw", "loss"), ("raw", "post"), ("loss", "best"), ("post", "found"),
]  # fmt: skip
WIDTH, HEIGHT = 1.55, 0.62


def pipeline(path: Path) -> None:
    """The way from files to boxes."""
    figure, axis = plt.subplots(figsize=(11, 3.6), layout="constrained")
    axis.set(xlim=(-0.95, 9.35), ylim=(-0.5, 2.5))
    axis.axis("off")
    for start, end in ARROWS:
        _arrow(axis, BOXES[start][:2], BOXES[end][:2])
    for x, y, kind, title, note in BOXES.values():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        style = "round,pad=0.04,rounding_size=0.1"
        axis.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, fc=COLOURS[kind], ec="#555555", lw=1))
        axis.text(x, y + 0.11, title, ha="center", va="center", fontsize=11, weight="bold", color="#222222")
        axis.text(x, y - 0.15, note, ha="center", va="center", fontsize=8.5, color="#444444")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    begin, finish = (start[0] + WIDTH / 2 + 0.05, start[1]), (end[0] - WIDTH / 2 - 0.05, end[1])
    axis.add_patch(FancyArrowPatch(begin, finish, arrowstyle="-|>", mutation_scale=13, color="#555555", lw=1.2))


if __name__ == "__main__":
    plt.rcParams["svg.hashsalt"] = "yolov4-mish"  # the same picture is the same file
    pipeline(FOLDER / "pipeline.svg")
