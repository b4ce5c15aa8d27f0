"""Procedural surfaces and backdrops of the sample scenes: tiles of linear RGB, drawn from an ``rng``."""

from __future__ import annotations

import cv2
import numpy as np

from data.sample.lens import blurred
from data.sample.objects import Rng, linear

TILE = 512  # pixels along a side of a ground texture, which repeats
_AXIS = np.arange(TILE, dtype=np.float32)
PANORAMA = (192, 576)  # a backdrop: rows of elevation, columns of azimuth


def noise(rng: Rng, size: tuple[int, int], cells: tuple[int, int], octaves: int = 4) -> np.ndarray:
    """Smooth repeating noise, float32 ``size`` (H, W), mean 0 and deviation about 1.

    Args:
        cells: rows and columns of the coarsest octave; each further one has twice as many and is 0.6 times as strong.
    """
    total = np.zeros(cells, np.float32)
    for octave in range(octaves):
        shape = (cells[0] << octave, cells[1] << octave)
        total = _enlarged(total, shape) + rng.standard_normal(shape, dtype=np.float32) * 0.6**octave
    return _enlarged(total, size) / 1.2


def _enlarged(tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A repeating tile resized to ``size`` (H, W) without a seam."""
    if tile.shape == size:
        return tile
    scale_y, scale_x = size[0] / tile.shape[0], size[1] / tile.shape[1]
    padded = np.pad(tile, 2, mode="wrap")
    wide, tall = round(padded.shape[1] * scale_x), round(padded.shape[0] * scale_y)
    top, left = round(2 * scale_y), round(2 * scale_x)
    full = cv2.resize(padded, (wide, tall), interpolation=cv2.INTER_CUBIC)
    return full[top : top + size[0], left : left + size[1]]


def _between(first: np.ndarray, second: np.ndarray, where: np.ndarray) -> np.ndarray:
    return first + (second - first) * np.clip(where, 0, 1).astype(np.float32)[..., None]


def _relief(height: np.ndarray, strength: float) -> np.ndarray:
    """Shading factor of a height map lit from the upper left."""
    slope = height - np.roll(height, (1, 1), (0, 1))
    return np.clip(1 + strength * slope, 0.3, 1.8)[..., None]


def _muted(rng: Rng) -> np.ndarray:
    """A colour as floors, cloth and walls have it: a grey with a tint."""
    return linear(*np.clip(rng.uniform(55, 215) + rng.normal(0, 24, 3), 20, 240))


def wood(rng: Rng) -> np.ndarray:
    """Boards side by side, each with its own tone and grain."""
    tones = [((196, 150, 100), (140, 95, 55)), ((120, 80, 50), (75, 45, 28)), ((215, 185, 145), (170, 130, 90))]
    light, dark = (linear(*tone) for tone in tones[rng.integers(3)])
    boards = int(rng.choice([1, 3, 4, 6]))
    row = np.arange(TILE) * boards // TILE
    bend = noise(rng, (TILE, TILE), (8, 2), 2) + rng.uniform(0, 40, boards)[row][:, None]
    rings = 0.5 + 0.5 * np.sin(np.arange(TILE)[:, None] * 0.22 + 3 * bend)
    fibre = noise(rng, (TILE, TILE), (128, 4), 2)
    image = _between(light, dark, 0.45 * rings**2 + 0.12 * fibre + rng.uniform(0, 0.5, boards)[row][:, None])
    gap = (np.arange(TILE) * boards % TILE < 2 * boards) & (boards > 1)
    return image * np.float32(1 - 0.7 * gap[:, None, None])


def fabric(rng: Rng) -> np.ndarray:
    """Woven threads, plain, striped or checked."""
    colours = _muted(rng), _muted(rng)
    y, x = _AXIS[:, None], _AXIS
    period = TILE / int(rng.choice([4, 8, 12]))
    bands_x, bands_y = (x % period < period / 2), (y % period < period / 2)
    pattern = (0 * (x + y), 0.8 * (bands_x + 0 * y), 0.4 * bands_x + 0.4 * bands_y)[rng.integers(3)].astype(np.float32)
    threads = np.sin(x * np.pi / 2.0) * np.sin(y * np.pi / 2.0 + 0.7)
    folds = noise(rng, (TILE, TILE), (3, 3), 2)
    return _between(*colours, pattern) * (1 + 0.12 * threads + 0.06 * folds)[..., None].clip(0.2)


def grass(rng: Rng) -> np.ndarray:
    """Thousands of blades in many greens over soil."""
    canvas = _between(linear(50, 66, 30), linear(84, 78, 48), 0.4 + 0.3 * noise(rng, (TILE, TILE), (6, 6)))
    blades = 9000
    start = rng.uniform(0, TILE, (blades, 2))
    end = start + rng.normal(0, 7, (blades, 2)) + (0, -4)
    tint = linear(84, 112, 50) * rng.uniform(0.5, 1.5, (blades, 1)) * rng.uniform(0.8, 1.2, (blades, 3))
    for a, b, colour in zip(np.intp(start * 16), np.intp(end * 16), tint, strict=True):
        cv2.line(canvas, a.tolist(), b.tolist(), colour.tolist(), 1, cv2.LINE_8, 4)
    return canvas * _relief(noise(rng, (TILE, TILE), (5, 5), 3), 0.5)


def concrete(rng: Rng) -> np.ndarray:
    """Concrete, asphalt or sand: grains, stains, and sometimes cracks."""
    colour = linear(*[(150, 148, 142), (88, 88, 92), (205, 185, 150), (175, 160, 145)][rng.integers(4)])
    stains, grains = noise(rng, (TILE, TILE), (4, 4), 5), rng.standard_normal((TILE, TILE), dtype=np.float32)
    cracks = np.abs(noise(rng, (TILE, TILE), (4, 4), 4)) < 0.012 if rng.random() < 0.4 else np.zeros(1, bool)
    tone = (1 + 0.09 * stains + 0.13 * cv2.GaussianBlur(grains, (0, 0), 0.8)) * np.float32(1 - 0.5 * cracks)
    return (colour * tone[..., None]).clip(0.01).astype(np.float32) * _relief(grains, 0.04)


def tiles(rng: Rng) -> np.ndarray:
    """Floor tiles with joints, or bricks when the rows are offset."""
    rows = int(rng.choice([4, 6, 8]))
    bricks = rng.random() < 0.4
    columns = rows // 2 if bricks else rows
    y, x = _AXIS[:, None] * np.float32(rows / TILE), _AXIS * np.float32(columns / TILE)
    x = x + np.float32(0.5 * bricks) * (np.floor(y) % 2)
    first, second = _muted(rng), _muted(rng)
    if bricks:
        first, second = linear(160, 80, 60), linear(110, 55, 45)
    row, column = np.int_(y), np.int_(x) % columns
    cell = (row + column) % 2 if rng.random() < 0.35 else rng.random((rows, columns), dtype=np.float32)[row, column]
    joint = np.minimum(np.minimum(x % 1, 1 - x % 1) / columns, np.minimum(y % 1, 1 - y % 1) / rows) < 0.006
    tone = 1 + 0.08 * noise(rng, (TILE, TILE), (5, 5), 5)
    return np.where(joint[..., None], linear(140, 135, 128), _between(first, second, 0.6 * cell)) * tone[..., None]


GROUNDS = (wood, fabric, grass, concrete, tiles)


def sky(rng: Rng) -> np.ndarray:
    """A sky with clouds above a hazy treeline, float32 (*PANORAMA, 3); the horizon lies at 3/8 of the height."""
    height, width = PANORAMA
    rise = np.linspace(1, -0.6, height, dtype=np.float32)[:, None]  # 0 at the horizon, 1 at the top
    zenith = linear(*[(70, 120, 190), (120, 150, 185), (95, 110, 150)][rng.integers(3)])
    horizon = linear(*[(200, 215, 230), (235, 205, 170), (205, 208, 212)][rng.integers(3)])
    image = np.broadcast_to(_between(horizon, zenith, np.clip(rise, 0, 1)), (height, width, 3))
    clouds = noise(rng, PANORAMA, (6, 6), 5) * 0.5 + rng.uniform(-0.6, 0.5)
    image = _between(image, linear(246, 244, 240), np.clip(clouds, 0, 0.9) * np.clip(rise * 4, 0, 1))
    hills = 0.03 + 0.06 * np.abs(noise(rng, (8, width), (1, 5), 4)[:1]) * rng.uniform(0.3, 2)
    leaves = noise(rng, PANORAMA, (24, 72), 3)
    green = linear(*rng.uniform((40, 60, 35), (110, 120, 110))) * (1 + 0.25 * leaves[..., None])
    return blurred(np.where((rise < hills)[..., None], green, image).astype(np.float32), 0.8)


def room(rng: Rng) -> np.ndarray:
    """A room out of focus: furniture and lamps as soft shapes before a wall."""
    height, width = PANORAMA
    wall = _muted(rng)
    canvas = np.ones((height, width, 3), np.float32) * wall.astype(np.float32)
    for _ in range(int(rng.integers(6, 16))):
        left, top = int(rng.integers(-60, width)), int(rng.integers(-60, height))
        wide, tall = rng.integers(20, 160, 2).tolist()
        colour = _muted(rng).tolist()
        cv2.rectangle(canvas, (left, top), (left + wide, top + tall), colour, -1)
    for _ in range(int(rng.integers(0, 9))):
        centre = rng.integers(0, (width, height)).tolist()
        cv2.circle(canvas, centre, int(rng.integers(3, 12)), (linear(255, 225, 170) * rng.uniform(1, 3)).tolist(), -1)
    return blurred(canvas, float(rng.uniform(3, 9)))


def wall(rng: Rng) -> np.ndarray:
    """A wall of plaster, brick, boards or cloth behind the ground's far edge."""
    texture = (concrete, tiles, wood, fabric)[rng.integers(4)](rng)
    copies = np.tile(texture, (1, 2, 1))[: PANORAMA[0], : PANORAMA[1]]
    light = 0.8 + 0.3 * noise(rng, PANORAMA, (2, 3), 1)
    return cv2.GaussianBlur(copies * light[..., None].clip(0.3), (0, 0), float(rng.uniform(0.6, 2.5))).astype(
        np.float32
    )


BACKDROPS = (sky, room, wall)
