"""Weights and images that need not be stored: any float of them follows from a seed and its place.

``uniforms`` numbers all values of a file 0, 1, 2 ... and scrambles the numbers (splitmix64), so that another program
in another language draws the same bits. What a uniform u becomes depends on what the value is for:

    bias, and mean of a batch norm     0.2 (u - 0.5)
    scale of a batch norm              0.8 + 0.4 u, times 0.3 where a shortcut follows: sums would grow otherwise
    variance of a batch norm           0.5 + u
    weight                             a (2 u - 1), a = sqrt(6 / fan in), or sqrt(3 / fan in) without batch norm

In deep networks mean and variance are replaced by ``calib``, those of the images, or the values would overflow.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.graph import plan
from models.shapes import Node
from utils.cfg import load_cfg
from utils.cfg.layers import Convolutional, Shortcut

_STEP = 0x9E3779B97F4A7C15
_BLOCK = 2**20


def uniforms(seed: int, start: int, count: int) -> np.ndarray:
    """``count`` float64 in [0, 1) from place ``start``, each a multiple of 2^-24."""
    base = np.uint64((seed + 1 + start) * _STEP % 2**64)
    parts = [np.empty(0)]
    for first in range(0, count, _BLOCK):
        place = np.arange(first, min(count, first + _BLOCK), dtype=np.uint64)
        z = base + place * np.uint64(_STEP)  # modulo 2^64
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        parts.append(((z ^ (z >> np.uint64(31))) >> np.uint64(40)) / 2**24)
    return np.concatenate(parts)


def make_input(seed: int, batch: int, channels: int, height: int, width: int) -> np.ndarray:
    """Images float32 (batch, channels, height, width) in [0, 1)."""
    values = uniforms(seed, 0, batch * channels * height * width)
    return values.astype(np.float32).reshape(batch, channels, height, width)


def write_weights(cfg: str | Path, target: str | Path, seed: int, calib: np.ndarray | None = None) -> None:
    """Write a .weights file for ``cfg``, whose only layers with parameters are convolutions.

    Args:
        calib: mean and variance of every batch norm in the order of the file.
    """
    nodes = plan(load_cfg(cfg)).nodes
    place, known = 0, iter([]) if calib is None else iter(calib)
    with Path(target).open("wb") as file:
        file.write(struct.pack("<iiiQ", 0, 2, 5, 0))
        for node in (node for node in nodes if node.parameters):
            follows = nodes[node.index + 1].section if node.index + 1 < len(nodes) else None
            for name, count, low, width in _arrays(node, before_shortcut=isinstance(follows, Shortcut)):
                values = low + width * uniforms(seed, place, count)
                place += count
                if calib is not None and name in ("mean", "variance"):
                    values = np.fromiter(known, np.float64, count)
                file.write(values.astype("<f4").tobytes())


def _arrays(node: Node, *, before_shortcut: bool) -> Iterator[tuple[str, int, float, float]]:
    """(name, how many values, the least, how far above it the greatest) of each array of a convolution."""
    section = node.section
    if not isinstance(section, Convolutional):
        raise ValueError(f"layer {node.index} [{section.kind}] has parameters (wanted convolutions only)")
    yield "bias", section.filters, -0.1, 0.2
    if section.batch_normalize:
        part = 0.3 if before_shortcut else 1.0
        yield "scale", section.filters, 0.8 * part, 0.4 * part
        yield "mean", section.filters, -0.1, 0.2
        yield "variance", section.filters, 0.5, 1.0
    fan_in = node.inputs[0] // section.groups * section.size**2
    limit = math.sqrt((6 if section.batch_normalize else 3) / fan_in)
    yield "weight", section.filters * fan_in, -limit, 2 * limit
