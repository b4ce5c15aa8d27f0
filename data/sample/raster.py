"""Which triangle of a mesh is seen where."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.sample.camera import Camera, Window
from data.sample.mesh import Mesh, dot

_SHIFT = 4  # fractional bits of cv2's polygon corners


@dataclass(frozen=True)
class Planes:
    """For each face, seen from one point: normal (F, 3), height along it (F,), and what barycentric weights need."""

    normal: np.ndarray
    height: np.ndarray
    across1: np.ndarray
    across2: np.ndarray


def rasterize(mesh: Mesh, camera: Camera, window: Window) -> np.ndarray:
    """1 + the nearest face at every sample of ``window``, 0 for none: int32 (h * zoom, w * zoom).

    Painter's algorithm within a piece of the mesh, exact depths between pieces.
    """
    pixels, depth = camera.project(mesh.vertices)
    corners = window.samples(pixels)[mesh.faces]  # (F, 3, 2)
    front = counter_clockwise(corners)
    middle = depth[mesh.faces].mean(1)
    nearest: np.ndarray | None = None
    for piece in range(mesh.pieces[-1] + 1):
        mine = np.flatnonzero(front & (mesh.pieces == piece))
        mine = mine[np.argsort(-middle[mine], kind="stable")]
        canvas = np.zeros(window.shape, np.int32)
        fill(canvas, corners[mine], (mine + 1).tolist())
        nearest = canvas if nearest is None else _nearer(nearest, canvas, mesh, camera, window)
    return nearest


def counter_clockwise(corners: np.ndarray) -> np.ndarray:
    """Which triangles (F, 3, 2) run counter-clockwise as seen, y pointing down: those that face the viewer."""
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] < 0


def _nearer(first: np.ndarray, second: np.ndarray, mesh: Mesh, camera: Camera, window: Window) -> np.ndarray:
    """Of two face images the nearer face at every sample."""
    rows, columns = np.nonzero((first > 0) & (second > 0))
    merged = np.where(second > 0, second, first)
    rays, planes = window.rays(camera, rows, columns), planes_of(mesh, camera.position)
    depths = []
    for faces in (first, second):
        face = faces[rows, columns] - 1
        depths.append(planes.height[face] / _safe(dot(planes.normal[face], rays)))
    merged[rows, columns] = np.where(depths[0] < depths[1], first[rows, columns], second[rows, columns])
    return merged


def planes_of(mesh: Mesh, origin: np.ndarray) -> Planes:
    corners = mesh.vertices[mesh.faces]
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal, start = np.cross(edge1, edge2), origin - corners[:, 0]
    height = -dot(normal, start)
    return Planes(*(np.float32(value) for value in (normal, height, np.cross(start, edge2), np.cross(edge1, start))))


def barycentric(rays: np.ndarray, planes: Planes, face: np.ndarray) -> np.ndarray:
    """Weights (N, 3) of a face's corners where each ray meets it (Moeller and Trumbore 1997), kept inside the face."""
    scale = _safe(dot(planes.normal[face], rays))
    u, v = (dot(across[face], rays) / scale for across in (planes.across1, planes.across2))
    weights = np.clip(np.stack([1 - u - v, u, v], -1), 0, 1)
    return weights / np.maximum(weights @ np.ones((3, 1), np.float32), 1e-9)


def _safe(divisor: np.ndarray) -> np.ndarray:
    """The divisor, kept away from zero."""
    return np.where(np.abs(divisor) < 1e-9, np.float32(1e-9), divisor)


def fill(canvas: np.ndarray, corners: np.ndarray, values: list) -> None:
    """Fill triangles (F, 3, 2), given in pixels, with one value each, in place and in order."""
    # cv2's pixel centres are whole numbers, ours lie at halves.
    for value, corner in zip(values, np.round((corners - 0.5) * (1 << _SHIFT)).astype(np.int32), strict=True):
        cv2.fillConvexPoly(canvas, corner, value, cv2.LINE_8, _SHIFT)
