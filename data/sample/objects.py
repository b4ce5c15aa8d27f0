"""The six classes of the sample data set and the clutter between them: shapes and paint, drawn from an ``rng``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from data.sample.mesh import Mesh, join, normalized, revolve, rotation, rounded_box, transform, tube

# points (N, 3) in the object's own frame, parts (N,) -> linear RGB (N, 3), gloss (N,) in [0, 1]
Paint = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Rng = np.random.Generator


@dataclass(frozen=True)
class Model:
    """A solid about one unit large, centred on the z axis, with its colours."""

    mesh: Mesh
    paint: Paint


def linear(*srgb: float) -> np.ndarray:
    """A colour given as it looks, 0..255, in linear light."""
    return np.float32((np.array(srgb) / 255) ** 2.2)


def _pick(rng: Rng, colours: list[tuple[int, int, int]], spread: float = 0.12) -> np.ndarray:
    """One of ``colours``, a little changed."""
    return np.clip(
        linear(*colours[rng.integers(len(colours))]) * (1 + spread * rng.standard_normal(3)), 0.01, 0.95
    ).astype(np.float32)


def _mottle(rng: Rng, frequency: float) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth random function of space, about -1..1: a sum of eight waves."""
    waves = np.float32(normalized(rng.standard_normal((8, 3))) * frequency * rng.uniform(0.5, 2, (8, 1)))
    phases = np.float32(rng.uniform(0, 2 * np.pi, 8))
    return lambda points: np.sin(points @ waves.T + phases) @ np.full(8, 1 / 3, np.float32)


def _mix(first: np.ndarray, second: np.ndarray, where: np.ndarray) -> np.ndarray:
    """``second`` (3,) or (N, 3) where ``where`` (N,) is 1, ``first`` where it is 0."""
    return first + (second - first) * where[:, None].astype(np.float32)


def ball(rng: Rng, detail: int) -> Model:
    """A ball: plain, in sectors, with a band, dotted, or with a tennis ball's seam."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, detail // 2 + 2)
    mesh = revolve(0.5 * np.stack([np.cos(angles), np.sin(angles)], -1), detail)
    bright = [(214, 48, 40), (32, 90, 190), (240, 200, 40), (40, 150, 70), (235, 110, 30), (170, 60, 150)]
    base, second = _pick(rng, bright), _pick(rng, [(240, 238, 230), (30, 30, 34), *bright])
    pattern, gloss, mottle = rng.integers(5), rng.uniform(0.15, 0.9), _mottle(rng, 12)
    spots = np.float32(normalized(rng.standard_normal((10, 3))))
    sectors = int(rng.integers(2, 4))

    def paint(points: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unit = normalized(points)
        marks = (
            np.zeros(len(points), bool),
            np.sin(sectors * np.arctan2(unit[:, 1], unit[:, 0])) > 0,
            np.abs(unit[:, 2]) < 0.22,
            (unit @ spots.T).max(-1) > 0.93,
            np.abs(unit[:, 2] - 0.55 * np.sin(2 * np.arctan2(unit[:, 1], unit[:, 0]))) < 0.07,
        )[pattern]
        return _mix(base, second, marks) * (1 + 0.05 * mottle(points)[:, None]), np.full(len(points), gloss)

    return Model(mesh, paint)


def mug(rng: Rng, detail: int) -> Model:
    """A mug with a handle, its inside lighter or like the outside, with or without bands."""
    height, foot = rng.uniform(0.8, 1.1), rng.uniform(0.36, 0.43)
    outer = np.array([(0, 0), (foot - 0.03, 0), (foot, 0.03), (0.42, height * 0.5), (0.43, height - 0.02)])
    rim = np.array([(0.43, height - 0.02), (0.42, height), (0.39, height), (0.385, height - 0.03)])
    inner = np.array([(0.385, height - 0.03), (0.37, height * 0.5), (0.34, 0.09)])
    bottom = np.array([(0.34, 0.09), (0, 0.09)])
    bow = np.linspace(-0.5, 0.5, 11) * np.pi
    reach, rise = rng.uniform(0.22, 0.32), rng.uniform(0.25, 0.33) * height
    path = np.stack([0.40 + reach * np.cos(bow), 0 * bow, height * 0.52 + rise * np.sin(bow)], -1)
    dense = np.concatenate([np.linspace(a, b, 4, endpoint=False) for a, b in pairwise(outer[1:])])
    wall = revolve(np.concatenate([outer[:1], dense, outer[-1:]]), detail, 0)
    walls = [revolve(np.linspace(inner[0], inner[-1], 8), detail, 1), revolve(np.linspace(*bottom, 4), detail, 2)]
    mesh = join([wall, revolve(rim, detail), *walls, tube(path, rng.uniform(0.05, 0.07), max(8, detail // 3))])
    glazes = [(235, 232, 225), (60, 110, 160), (230, 180, 70)]
    colour, inside = _pick(rng, glazes), _pick(rng, [(238, 235, 228), (225, 215, 195)])
    drink = _pick(rng, [(60, 32, 16), (150, 90, 30), (236, 232, 224)])
    band = _pick(rng, glazes)
    low, high = np.sort(rng.uniform(0.1, 0.95, 2)) * height if rng.random() < 0.5 else (2.0, 2.0)
    gloss = rng.uniform(0.5, 1)

    def paint(points: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        on_wall = np.hypot(points[:, 0], points[:, 1]) < 0.445
        outside = _mix(colour, band, (points[:, 2] > low) & (points[:, 2] < high) & on_wall)
        depth = np.clip((points[:, 2] / height - 0.1), 0, 1)[:, None]
        albedo = np.where(parts[:, None] == 0, outside, inside * (0.35 + 0.65 * depth))
        return np.where(parts[:, None] == 2, drink * 0.5, albedo), np.where(parts == 0, gloss, 0.3)

    return Model(mesh, paint)


def book(rng: Rng, detail: int) -> Model:
    """A book lying on its back: a cover with title blocks, a spine, and page edges."""
    half = np.array([rng.uniform(0.5, 0.6), rng.uniform(0.7, 0.85), rng.uniform(0.14, 0.24)])
    mesh = rounded_box(tuple(half), 0.02, 2)
    covers = [(150, 30, 35), (30, 60, 120), (25, 95, 70), (70, 45, 90)]
    cover, ink = _pick(rng, covers), _pick(rng, [(235, 225, 200), (225, 190, 90), (25, 25, 30)])
    pages = _pick(rng, [(238, 232, 215), (228, 216, 188)], 0.03)
    blocks = rng.uniform((-0.7, -0.8, 0.1, 0.04), (0.3, 0.6, 0.6, 0.25), (int(rng.integers(2, 5)), 4))
    picture, gloss, mottle = _pick(rng, covers, 0.3), rng.uniform(0.1, 0.6), _mottle(rng, 25)

    def paint(points: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = (points / np.float32(half)).T
        albedo = np.broadcast_to(cover, points.shape)
        for index, (left, low, width, height) in enumerate(blocks):
            inside = (x > left) & (x < left + 2 * width) & (y > low) & (y < low + 2 * height) & (np.abs(x) < 0.85)
            lines = (index == 0) | (np.sin(y * 40) > -0.2)
            albedo = _mix(albedo, picture if index == 0 else ink, inside & lines & (parts >= 4))
        albedo = _mix(albedo, ink, (parts == 0) & (np.abs(z) < 0.4) & (np.abs(np.abs(y) - 0.45) < 0.25))
        edge = (parts > 0) & (parts < 4) & (np.abs(z) < 0.82)
        sheets = pages * (0.86 + 0.14 * np.sin(points[:, 2:] * 260)) * (0.9 + 0.1 * np.sin(points[:, 2:] * 61))
        albedo = np.where(edge[:, None], sheets, albedo * (1 + 0.05 * mottle(points)[:, None]))
        return albedo, np.where(edge, 0.0, gloss)

    return Model(transform(mesh, np.eye(3), offset=np.array([0, 0, half[2]])), _lowered(paint, half[2]))


def die(rng: Rng, detail: int) -> Model:
    """A die with rounded edges, opposite faces adding up to seven."""
    mesh = rounded_box((0.4, 0.4, 0.4), rng.uniform(0.05, 0.1), 4)
    bodies = [(238, 236, 228), (190, 30, 35), (35, 38, 44), (30, 80, 170), (30, 130, 70), (235, 225, 190)]
    body = _pick(rng, bodies, 0.05)
    ink = linear(25, 25, 28) if body.mean() > 0.25 else linear(240, 240, 235)
    size, gloss = rng.uniform(0.07, 0.09), rng.uniform(0.3, 0.9)
    corners, middles = [(-1, -1), (1, 1), (1, -1), (-1, 1)], [(-1, 0), (1, 0)]
    pips = {1: [(0, 0)], 2: corners[:2], 3: [(0, 0), *corners[:2]], 4: corners}
    pips |= {5: [(0, 0), *corners], 6: [*corners, *middles]}
    values = (1, 6, 2, 5, 3, 4)  # of the faces -x, +x, -y, +y, -z, +z

    def paint(points: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        marks = np.zeros(len(points), bool)
        for part, value in enumerate(values):
            plane = np.delete(points, part // 2, axis=1)  # (N, 2) on that face
            for pip in pips[value]:
                gap = plane - 0.2 * np.float32(pip)
                marks |= (parts == part) & (np.hypot(gap[:, 0], gap[:, 1]) < size)
        return _mix(body, ink, marks), np.where(marks, 0.1, gloss)

    return Model(transform(mesh, np.eye(3), offset=np.array([0, 0, 0.4])), _lowered(paint, 0.4))


def bottle(rng: Rng, detail: int) -> Model:
    """A bottle with shoulder, neck, cap and a label."""
    height, shoulder = rng.uniform(1.7, 2.3), rng.uniform(0.55, 0.7)
    neck, radius = rng.uniform(0.1, 0.15), rng.uniform(0.3, 0.4)
    blend = np.linspace(0, 1, 9)
    curve = radius + (neck - radius) * (3 * blend**2 - 2 * blend**3)
    slope = np.stack([curve, height * (shoulder + (0.87 - shoulder) * blend)], -1)
    side = np.linspace((radius, 0.05), (radius, height * shoulder), 8, endpoint=False)
    body = np.concatenate([[(0, 0), (radius - 0.04, 0)], side, slope, [(neck, height * 0.93)]])
    cap = neck * 1.2
    lid = np.array([(neck, height * 0.92), (cap, height * 0.92), (cap, height * 0.99), (cap - 0.02, height)])
    top = np.linspace((cap - 0.02, height), (0, height), 3)
    mesh = join([revolve(body, detail, 0), revolve(lid, detail, 1), revolve(top, detail, 1)])
    glass = _pick(rng, [(30, 80, 45), (80, 45, 20), (20, 110, 110)])
    label, ink = (
        _pick(rng, [(240, 235, 220), (230, 200, 110), (200, 60, 50), (40, 60, 110)]),
        _pick(rng, [(30, 30, 40)]),
    )
    lid_colour = _pick(rng, [(200, 40, 40), (235, 235, 235), (30, 30, 30), (220, 180, 60), (40, 80, 170)])
    low, high = height * rng.uniform(0.1, 0.2), height * rng.uniform(0.4, 0.5)
    has_label, turn = rng.random() < 0.8, rng.uniform(0, 2 * np.pi)

    def paint(points: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = points.T
        level, angle = (z - low) / (high - low), np.cos(np.arctan2(y, x) + turn)
        paper = (level > 0) & (level < 1) & (parts == 0) & has_label
        printed = (angle > 0.3) & (((level > 0.55) & (level < 0.8)) | ((level < 0.35) & (np.sin(level * 70) > 0)))
        albedo = _mix(_mix(glass, label, paper), ink, paper & printed)
        return _mix(albedo, lid_colour, parts == 1), np.where(paper, 0.15, np.where(parts == 1, 0.4, 1.0))

    return Model(mesh, paint)


def cone(rng: Rng, detail: int) -> Model:
    """A traffic cone on its square foot, with pale bands."""
    height, foot, tip = rng.uniform(1.3, 1.7), rng.uniform(0.36, 0.44), rng.uniform(0.05, 0.09)
    side = np.linspace((foot, 0.08), (tip, height), 14)
    top = np.linspace((tip, height), (0, height - 0.02), 3)
    base = rounded_box((0.55, 0.55, 0.05), 0.02, 6)
    base = transform(base, np.eye(3), offset=np.array([0, 0, 0.05]))
    mesh = join([replace(base, parts=np.ones_like(base.parts)), revolve(side, detail), revolve(top, detail)])
    colour = _pick(rng, [(245, 95, 20), (245, 95, 20), (235, 70, 25), (240, 190, 30)])
    feet = colour if rng.random() < 0.6 else linear(40, 40, 42)
    bands = [(0.3, 0.48), (0.62, 0.76)][: int(rng.integers(1, 3))]
    pale, dirt, grime = _pick(rng, [(238, 238, 235)], 0.02), rng.uniform(0, 0.4), _mottle(rng, 9)

    def paint(points: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level = points[:, 2] / height
        banded = np.any([(level > low) & (level < high) for low, high in bands], axis=0)
        albedo = _mix(_mix(colour, pale, banded), feet, parts == 1)
        return albedo * (1 - dirt * np.clip(grime(points), 0, 1)[:, None]), np.where(banded, 0.35, 0.2)

    return Model(mesh, paint)


def stone(rng: Rng, detail: int) -> Model:
    """Clutter: a pebble."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, detail // 2 + 2)
    mesh = revolve(0.3 * np.stack([np.cos(angles), np.sin(angles)], -1), detail)
    lump, squash = _mottle(rng, 5), rng.uniform((0.7, 0.6, 0.35), (1.4, 0.9, 0.6))
    vertices = mesh.vertices * (1 + 0.15 * lump(mesh.vertices)[:, None]) * squash
    mesh = replace(mesh, vertices=vertices, normals=normalized(mesh.normals / squash))
    colour, fleck = _pick(rng, [(120, 115, 108), (90, 85, 80), (150, 140, 122), (110, 90, 75)]), _mottle(rng, 60)
    return Model(mesh, lambda points, parts: (colour * (1 + 0.2 * fleck(points)[:, None]), np.full(len(points), 0.08)))


def stick(rng: Rng, detail: int) -> Model:
    """Clutter: a rod, a pencil or a twig lying about."""
    along = np.linspace(-1, 1, 9)
    path = np.stack([along * rng.uniform(0.6, 1.4), rng.uniform(-0.2, 0.2) * along**2, 0 * along], -1)
    mesh = tube(path, rng.uniform(0.025, 0.07), max(6, detail // 3))
    colour = _pick(rng, [(110, 80, 50), (60, 45, 35), (220, 180, 60), (150, 150, 155), (60, 110, 70)])
    grain = _mottle(rng, 20)
    return Model(mesh, lambda points, parts: (colour * (1 + 0.15 * grain(points)[:, None]), np.full(len(points), 0.2)))


def sheet(rng: Rng, detail: int) -> Model:
    """Clutter: a flat card, a coaster or a scrap of paper."""
    half = (rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.6), 0.008)
    colour = _pick(rng, [(230, 228, 220), (170, 190, 200), (200, 170, 130), (90, 100, 95), (215, 190, 190)])
    cloud = _mottle(rng, 6)
    shade = lambda points, parts: (colour * (1 + 0.08 * cloud(points)[:, None]), np.full(len(points), 0.1))  # noqa: E731
    return Model(rounded_box(half, 0.0, 3), shade)


def hoop(rng: Rng, detail: int) -> Model:
    """Clutter: a ring lying flat."""
    turn = np.linspace(0, 2 * np.pi, detail + 1)
    thickness, radius = rng.uniform(0.04, 0.1), rng.uniform(0.25, 0.5)
    section = np.linspace(0, 2 * np.pi, 9)
    profile = np.stack([radius + thickness * np.cos(section), thickness * np.sin(section)], -1)
    mesh = revolve(profile, len(turn) - 1)
    colour = _pick(rng, [(160, 160, 165), (190, 150, 60), (50, 50, 55), (90, 130, 120)])
    return Model(mesh, lambda points, parts: (np.broadcast_to(colour, points.shape), np.full(len(points), 0.6)))


def _lowered(paint: Paint, height: float) -> Paint:
    """``paint`` of a solid centred on the origin, for the same solid raised by ``height``."""
    return lambda points, parts: paint(points - np.float32([0, 0, height]), parts)


def pose(name: str, rng: Rng) -> np.ndarray:
    """How an object of class ``name`` may lie on the ground: a rotation (3, 3)."""
    turn = rotation((0, 0, 1), rng.uniform(0, 360))
    if name == "ball":
        return turn @ rotation(rng.standard_normal(3), rng.uniform(0, 180))
    if name == "die":
        return turn @ rotation((1, 0, 0), 90 * rng.integers(4)) @ rotation((0, 1, 0), 90 * rng.integers(4))
    if name == "book" and rng.random() < 0.05:
        return turn @ rotation((1, 0, 0), 90) @ rotation((0, 0, 1), 90 * rng.integers(2))
    if name in ("bottle", "mug") and rng.random() < 0.05:
        return turn @ rotation((1, 0, 0), 90) @ rotation((0, 0, 1), rng.uniform(0, 360))
    if name == "cone" and rng.random() < 0.06:
        return turn @ rotation((1, 0, 0), 106)  # lies on an edge of its foot and on its tip
    return turn


CLASSES: dict[str, Callable[[Rng, int], Model]] = {
    "ball": ball,
    "book": book,
    "bottle": bottle,
    "cone": cone,
    "die": die,
    "mug": mug,
}
CLUTTER: dict[str, Callable[[Rng, int], Model]] = {"stone": stone, "stick": stick, "sheet": sheet, "hoop": hoop}
