"""The renderer: the nearest side is seen, light falls from where it should, shadows away from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.sample.camera import Camera, Window
from data.sample.mesh import Mesh, rounded_box
from data.sample.objects import CLASSES, Model, pose
from data.sample.render import Light, Thing, composite, cover, shade, shadow
from utils.keyed_random import keyed_rng

SIZE = (160, 200)


def camera(pitch: float = 30.0, **changes) -> Camera:
    rest = dict(target=np.array([0, 0, 0.4]), distance=5.0, heading=20.0, roll=0.0, focal=220.0, size=SIZE)
    return Camera.looking_at(pitch=pitch, **(rest | changes))


def light(*direction: float) -> Light:
    towards = np.array(direction) / np.linalg.norm(direction)
    grey = np.full(3, 0.1)
    return Light(towards, np.full(3, 2.0), grey, grey, 0.02, np.eye(3))


def standing(model: Model, turn: np.ndarray | None = None) -> Thing:
    thing = Thing(model, 0, np.eye(3) if turn is None else turn, 1.0, np.zeros(3))
    return replace(thing, offset=np.array([0, 0, -thing.mesh.vertices[:, 2].min()]))


def nearest_hits(mesh: Mesh, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Oracle: distance along each ray (N, 3) to the nearest of all triangles, by trying each."""
    best = np.full(len(rays), np.inf)
    for a, b, c in mesh.vertices[mesh.faces]:
        matrix = np.stack([-rays, np.broadcast_to(b - a, rays.shape), np.broadcast_to(c - a, rays.shape)], -1)
        usable = np.abs(np.linalg.det(matrix)) > 1e-12
        t, u, v = np.linalg.solve(matrix[usable], np.broadcast_to(origin - a, rays.shape)[usable][..., None])[..., 0].T
        hit = (u >= 0) & (v >= 0) & (u + v <= 1)
        best[np.flatnonzero(usable)[hit]] = np.minimum(best[np.flatnonzero(usable)[hit]], t[hit])
    return best


@pytest.mark.parametrize("name", list(CLASSES))
def test_the_face_seen_is_the_nearest(name: str) -> None:
    rng = keyed_rng(5)
    thing, view = standing(CLASSES[name](rng, 16), pose(name, rng)), camera(float(rng.uniform(15, 70)))
    covered = cover(thing, view)
    rows, columns = np.nonzero(covered.faces)
    some = rng.choice(len(rows), 60, replace=False)
    rays = covered.window.rays(view, rows[some], columns[some]).astype(float)
    face = covered.faces[rows[some], columns[some]] - 1
    corners = thing.mesh.vertices[thing.mesh.faces[face]]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    seen = ((corners[:, 0] - view.position) * normal).sum(1) / (rays * normal).sum(1)
    expected = nearest_hits(thing.mesh, view.position, rays)
    assert ((rays * normal).sum(1) < 0).all()  # turned towards us
    assert np.mean(np.abs(seen - expected) < 0.03) >= 0.95  # but for samples on an edge


def test_projection_and_rays_are_inverse() -> None:
    view = camera(roll=7.0)
    points = keyed_rng(0).uniform(-1, 1, (50, 3))
    pixels, depth = view.project(points)
    rays = Window(0, 0, 200, 160, 1).rays(view, pixels[:, 1] - 0.5, pixels[:, 0] - 0.5)
    np.testing.assert_allclose(view.position + rays * depth[:, None], points, atol=1e-4)
    np.testing.assert_allclose(view.rays[10, 20], Window(0, 0, 200, 160, 1).rays(view, [10], [20])[0], atol=1e-6)


def test_the_target_is_in_the_middle_and_up_is_up() -> None:
    view = camera()
    pixels, depth = view.project(np.array([[0, 0, 0.4], [0, 0, 1.4]]))
    np.testing.assert_allclose(pixels[0], (100, 80), atol=1e-9)
    assert depth[0] == pytest.approx(5)
    assert pixels[1, 1] < 80 and pixels[1, 0] == pytest.approx(100)


def test_light_falls_on_the_side_it_comes_from() -> None:
    white = Model(
        CLASSES["ball"](keyed_rng(0), 40).mesh, lambda points, _: (np.full_like(points, 0.5), np.zeros(len(points)))
    )
    view = camera(heading=0.0)
    covered = cover(standing(white), view)
    middle = slice(covered.alpha.shape[0] // 3, covered.alpha.shape[0] // 2)
    for side in (-1, 1):
        row = shade(covered, view, light(side, -0.3, 0.6))[middle].mean((0, 2))
        left, right = np.array_split(row, 2)
        assert (right.mean() - left.mean()) * side > 0.1


def test_shadows_fall_away_from_the_light_and_touch_the_foot() -> None:
    cone, view = standing(CLASSES["cone"](keyed_rng(1), 24)), camera(heading=0.0)
    foot_x, foot_y = view.project(np.zeros((1, 3)))[0][0]
    for side in (-1, 1):
        dark = shadow([cone], view, light(side, 0, 0.7).direction, 0.02)
        assert dark.shape == SIZE and dark.min() >= 0 and dark.max() <= 1.001
        assert dark[int(foot_y), int(foot_x)] > 0.95
        middle = (dark.sum(0) * np.arange(SIZE[1])).sum() / dark.sum()
        assert (middle - foot_x) * side < -10


def test_softness_widens_the_edge_and_nothing_casts_nothing() -> None:
    die, view = standing(CLASSES["die"](keyed_rng(1), 24)), camera()
    sharp, soft = (shadow([die], view, light(1, 0, 1).direction, softness) for softness in (0.01, 0.2))
    assert ((soft > 0.1) & (soft < 0.9)).sum() > 3 * ((sharp > 0.1) & (sharp < 0.9)).sum()
    assert soft.sum() == pytest.approx(sharp.sum(), rel=0.05)
    assert not shadow([], view, np.array([0, 0, 1]), 0.1).any()


def test_what_is_out_of_sight_or_too_near_covers_nothing() -> None:
    die, view = standing(CLASSES["die"](keyed_rng(1), 24)), camera()
    assert cover(die, view) is not None
    assert cover(replace(die, offset=die.offset + 30 * view.axes[0]), view) is None
    assert cover(replace(die, offset=view.position + 0.5 * view.axes[2]), view) is None
    assert cover(replace(die, scale=8.0, offset=np.array([0, 3.0, 0])), view) is None


def test_defocus_spreads_a_thing_but_keeps_its_light() -> None:
    model = Model(rounded_box((0.3, 0.3, 0.3), 0.0, 2), lambda points, _: (np.full_like(points, 0.5), 0 * points[:, 0]))
    thing, sun = standing(model), light(0, -1, 1)
    pictures = []
    for aperture in (0.0, 30.0):
        view = replace(camera(), aperture=aperture, focus=2.5)
        covered, canvas = cover(thing, view), np.zeros((*SIZE, 3), np.float32)
        composite(canvas, covered, shade(covered, view, sun), view)
        pictures.append(canvas)
    assert (pictures[1] > 1e-3).sum() > 1.3 * (pictures[0] > 1e-3).sum()
    assert pictures[1].sum() == pytest.approx(pictures[0].sum(), rel=0.03)
