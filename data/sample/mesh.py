"""Triangle meshes of simple solids, the raw material of the sample scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """Triangles with smooth normals; seen from outside their corners run counter-clockwise.

    Attributes:
        vertices: float64 (V, 3), x right, y away from the viewer, z up.
        normals: float64 (V, 3), unit length; sharp edges have one vertex for each side.
        faces: int64 (F, 3) indices of vertices.
        parts: int64 (F,), which part of the object a face belongs to (its paint decides the colour).
        pieces: int64 (F,), the joined meshes; within a piece, nearer faces have the nearer centre.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    pieces: np.ndarray


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (..., 3); a zero vector stays zero."""
    return vectors / np.maximum(np.sqrt(dot(vectors, vectors)), 1e-12)[..., None]


def dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Scalar products (...) of matching vectors (..., 3); several times as fast as summing the last axis."""
    return np.einsum("...c,...c->...", first, second)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several pieces."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=True)]),
        np.concatenate([mesh.parts for mesh in meshes]),
        np.concatenate([np.full(len(mesh.faces), piece) for piece, mesh in enumerate(meshes)]),
    )


def transform(mesh: Mesh, rotation: np.ndarray, scale: float = 1.0, offset: np.ndarray | float = 0.0) -> Mesh:
    """``rotation`` (3, 3), then ``scale``, then ``offset`` (3,)."""
    return replace(mesh, vertices=mesh.vertices @ rotation.T * scale + offset, normals=mesh.normals @ rotation.T)


def revolve(profile: np.ndarray, segments: int, part: int = 0) -> Mesh:
    """Turn ``profile`` (P, 2) of (radius, height) round the z axis; the outside lies to the right of its direction."""
    angles = np.linspace(0, 2 * np.pi, segments + 1)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (S + 1, 2)
    radius, height = profile[:, :1, None], profile[:, 1:, None]
    vertices = np.concatenate([radius * ring, np.broadcast_to(height, (len(profile), segments + 1, 1))], axis=-1)
    slope = np.gradient(profile, axis=0)  # (P, 2): along the profile, so (dz, -dr) points outwards
    outward = np.concatenate(
        [slope[:, 1:, None] * ring, np.broadcast_to(-slope[:, :1, None], (len(profile), segments + 1, 1))], axis=-1
    )
    return _grid(vertices, normalized(outward), part)


def tube(path: np.ndarray, radius: float, segments: int, part: int = 0) -> Mesh:
    """A round rod along ``path`` (P, 3), which must not turn back on itself."""
    tangent = normalized(np.gradient(path, axis=0))
    helper = np.eye(3)[np.argmin(np.abs(path[-1] - path[0]))]
    side = normalized(np.cross(tangent, helper))
    up = np.cross(side, tangent)
    angles = np.linspace(0, 2 * np.pi, segments + 1)[:, None]
    around = np.cos(angles) * side[:, None] + np.sin(angles) * up[:, None]  # (P, S + 1, 3)
    return _grid(path[:, None] + radius * around, around, part, flip=True)


def rounded_box(half: tuple[float, float, float], radius: float, divisions: int) -> Mesh:
    """A box of half sides ``half`` with edges of ``radius``; parts 0..5 are -x, +x, -y, +y, -z, +z."""
    bend = np.linspace(0, 1, 4)[:-1]
    sides = []
    for axis in range(3):
        for sign in (-1, 1):
            u, v = (axis + 1) % 3, (axis + 2) % 3
            grids = []
            for other in (u, v):
                inner = half[other] - radius
                flat = np.linspace(-inner, inner, divisions + 1)
                edge = inner + radius * np.tan(bend[1:] * np.pi / 4) if radius else np.empty(0)
                ends = np.full(1, half[other]) if radius else np.empty(0)
                grids.append(np.concatenate([-ends, -edge[::-1], flat, edge, ends]))
            points = np.zeros((len(grids[0]), len(grids[1]), 3))
            points[..., axis], points[..., u], points[..., v] = sign * half[axis], grids[0][:, None], grids[1][None]
            core = np.clip(points, -(np.array(half) - radius), np.array(half) - radius)
            face_normal = sign * np.eye(3)[axis]
            normals = normalized(points - core) if radius else np.broadcast_to(face_normal, points.shape)
            sides.append(_grid(core + radius * normals, normals, 2 * axis + (sign > 0), flip=sign > 0))
    return replace(box := join(sides), pieces=np.zeros_like(box.pieces))


def rotation(axis: Sequence[float], degrees: float) -> np.ndarray:
    """The matrix (3, 3) that turns by ``degrees`` about ``axis`` (Rodrigues' formula)."""
    x, y, z = normalized(np.asarray(axis, dtype=float))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _grid(vertices: np.ndarray, normals: np.ndarray, part: int, flip: bool = False) -> Mesh:
    """A sheet (R, C, 3) of quads as triangles; rows x columns run counter-clockwise unless ``flip``."""
    rows, columns = vertices.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return Mesh(
        vertices.reshape(-1, 3),
        np.ascontiguousarray(normals).reshape(-1, 3),
        faces[:, ::-1] if flip else faces,
        np.full(len(faces), part),
        np.zeros(len(faces), int),
    )
