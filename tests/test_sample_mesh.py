"""Meshes: outsides outside, corners at right places."""

from __future__ import annotations

import numpy as np
import pytest

from data.sample.mesh import Mesh, dot, join, normalized, revolve, rotation, rounded_box, transform, tube
from data.sample.objects import CLASSES, CLUTTER
from utils.keyed_random import keyed_rng


def face_normals(mesh: Mesh) -> np.ndarray:
    corners = mesh.vertices[mesh.faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def volume(mesh: Mesh) -> float:
    """Of a closed mesh, by the divergence theorem; negative where faces are inside out."""
    corners = mesh.vertices[mesh.faces]
    return float(dot(corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)


@pytest.mark.parametrize("name", [*CLASSES, *CLUTTER])
def test_faces_and_normals_look_the_same_way(name: str) -> None:
    mesh = (CLASSES | CLUTTER)[name](keyed_rng(1), 24).mesh
    flat = face_normals(mesh)
    large = np.linalg.norm(flat, axis=1) > 1e-9
    agree = dot(normalized(flat[large]), mesh.normals[mesh.faces[large]].mean(1))
    assert np.mean(agree > 0) == 1
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-6)


def test_solids_have_their_volume() -> None:
    assert volume(rounded_box((1, 2, 3), 0.0, 2)) == pytest.approx(2 * 4 * 6)
    rounded = volume(rounded_box((1, 1, 1), 0.2, 2))
    # A cube of side 1.6, six slabs, twelve quarter cylinders, eight eighths of a sphere.
    assert rounded == pytest.approx(
        1.6**3 + 6 * 1.6**2 * 0.2 + 3 * np.pi * 0.04 * 1.6 + 4 / 3 * np.pi * 0.008, rel=0.01
    )
    angles = np.linspace(-np.pi / 2, np.pi / 2, 40)
    ball = revolve(np.stack([np.cos(angles), np.sin(angles)], -1), 80)
    assert volume(ball) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    rod = tube(np.linspace((0, 0, 0), (5, 0, 0), 6), 0.5, 60)
    assert volume(rod) == pytest.approx(np.pi * 0.25 * 5 * 2 / 3, rel=0.01)  # open ends count a third less


def test_join_keeps_pieces_apart_and_transform_moves() -> None:
    box = rounded_box((1, 1, 1), 0.0, 1)
    both = join([box, transform(box, np.eye(3), 2.0, np.array([5, 0, 0]))])
    assert both.pieces.tolist() == [0] * 12 + [1] * 12
    assert volume(both) == pytest.approx(8 + 64)
    assert both.vertices.max(0).tolist() == [7, 2, 2]


def test_rotation_turns_counter_clockwise() -> None:
    np.testing.assert_allclose(rotation((0, 0, 2), 90) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(rotation((1, 0, 0), 90) @ (0, 1, 0), (0, 0, 1), atol=1e-12)
