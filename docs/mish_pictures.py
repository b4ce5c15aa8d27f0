"""Draws the pictures of docs/mish.md: python docs/mish_pictures.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

FOLDER = Path(__file__).parent
MINIMUM = (-1.19243121, -0.30884341)
INFLECTIONS = (-2.25637640, 1.49057118)  # where f'' is 0 and f' has its extremes
BLUE, ORANGE, GREEN, GREY = "#1f6fb2", "#d9792b", "#3b8f4b", "#8a8a8a"


def parts(x: np.ndarray) -> dict[str, np.ndarray]:
    """f, f', f'' in closed form with e = exp(x), and the two terms of f'."""
    e = np.exp(x)
    n = e * (e + 2)
    d = n + 2
    ratio = n / d  # tanh(softplus(x)) = f(x) / x
    delta = 1 - ratio**2  # sech^2(softplus(x))
    swish = x * e / (1 + e)
    second = 8 * e * (e + 1) / d**2 + 4 * x * e * (2 + 2 * e - 3 * e**2 - 2 * e**3) / d**3
    return {"f": x * ratio, "f'": delta * swish + ratio, "f''": second, "ratio": ratio, "delta": delta, "swish": swish}


def curves(path: Path) -> None:
    """Mish beside ReLU and Swish, and its first two derivatives."""
    x = np.linspace(-6, 4, 1001)
    mish = parts(x)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(x, np.maximum(x, 0), color=GREY, ls="--", lw=1.2, label="ReLU")
    left.plot(x, mish["swish"], color=GREEN, lw=1.2, label="Swish, x sigmoid(x)")
    left.plot(x, mish["f"], color=BLUE, lw=2.2, label="Mish, f(x) = x tanh(softplus(x))")
    left.plot(*MINIMUM, "o", color=BLUE)
    left.annotate("minimum f(-1.192) = -0.309", MINIMUM, (-5.8, -0.85), fontsize=9, arrowprops={"arrowstyle": "-"})
    left.set(ylim=(-1.1, 4), title="the function")
    right.plot(x, mish["f'"], color=BLUE, lw=2.2, label="f'")
    right.plot(x, mish["f''"], color=ORANGE, lw=1.6, label="f''")
    for place in INFLECTIONS:
        right.plot(place, parts(np.array([place]))["f'"][0], "o", color=BLUE)
    right.annotate("steepest: f'(1.491) = 1.088", (1.49, 1.09), (-5.8, 1.0), fontsize=9, arrowprops={"arrowstyle": "-"})
    right.annotate("f'(-2.256) = -0.113", (-2.256, -0.113), (-5.8, -0.42), fontsize=9, arrowprops={"arrowstyle": "-"})
    right.set(ylim=(-0.55, 1.25), title="its derivatives: smooth everywhere")
    _finish(figure, {left: "upper left", right: "center left"}, path)


def derivative_parts(path: Path) -> None:
    """f' = delta(x) swish(x) + f(x) / x: what each of the two terms does."""
    x = np.linspace(-6, 6, 1201)
    mish = parts(x)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(x, mish["f'"], color=BLUE, lw=2.2, label="f'(x)")
    axis.plot(x, mish["ratio"], color=GREEN, lw=1.4, label="f(x) / x = tanh(softplus(x))")
    axis.plot(x, mish["delta"] * mish["swish"], color=ORANGE, lw=1.4, label=r"$\Delta(x)$ swish(x)")
    axis.plot(x, mish["delta"], color=GREY, ls="--", lw=1.2, label=r"$\Delta(x)$ = sech$^2$(softplus(x))")
    axis.set(ylim=(-0.4, 1.25), title="the derivative and its two terms")
    _finish(figure, {axis: "center right"}, path)


def _finish(figure: plt.Figure, axes: dict[Axes, str], path: Path) -> None:
    """Bare axes with a legend at the place each names."""
    for axis, place in axes.items():
        axis.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        axis.axvline(0, color="#cccccc", lw=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("x")
        axis.legend(frameon=False, fontsize=9, loc=place)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    plt.rcParams["svg.hashsalt"] = "yolov4-mish"  # the same picture is the same file
    curves(FOLDER / "mish.svg")
    derivative_parts(FOLDER / "mish_derivative.svg")
