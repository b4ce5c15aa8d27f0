"""The camera of the sample scenes, and windows into its image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from data.sample.mesh import rotation

if TYPE_CHECKING:  # utils.structures imports torch, which the drawing processes can do without
    from utils.structures import Size

NEAR = 0.3  # nothing closer to the camera is drawn


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        position: (3,) in the world.
        axes: (3, 3), rows right, down, forward.
        focal: in pixels; the principal point is the image centre.
        size: (H, W) of the image.
        focus: distance that is sharp.
        aperture: blur radius in pixels of a point at infinity when the focus is at distance 1.
    """

    position: np.ndarray
    axes: np.ndarray
    focal: float
    size: Size
    focus: float = 1.0
    aperture: float = 0.0

    @classmethod
    def looking_at(
        cls, target: np.ndarray, distance: float, pitch: float, heading: float, roll: float, **rest
    ) -> Camera:
        """Look at ``target`` from ``distance``, ``pitch`` degrees down, turned by ``heading`` to the left."""
        turn = rotation((0, 0, 1), heading) @ rotation((1, 0, 0), -pitch) @ rotation((0, 1, 0), roll)
        right, forward, up = turn.T
        return cls(target - distance * forward, np.stack([right, -up, forward]), focus=distance, **rest)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points (N, 3) -> pixels (N, 2) and depths (N,); meaningless at depths below ``NEAR``."""
        seen = (points - self.position) @ self.axes.T
        depth = seen[:, 2]
        centre = np.array([self.size[1], self.size[0]]) / 2
        return seen[:, :2] / np.maximum(depth, 1e-6)[:, None] * self.focal + centre, depth

    @cached_property
    def rays(self) -> np.ndarray:
        """Direction float32 (H, W, 3) through each pixel's centre, of depth 1."""
        height, width = self.size
        y, x = np.mgrid[:height, :width] + 0.5
        plane = np.stack([x - width / 2, y - height / 2, np.full_like(x, self.focal)], -1) / self.focal
        return np.float32(plane @ self.axes)

    def defocus(self, depth: np.ndarray | float) -> np.ndarray | float:
        """Standard deviation in pixels of the blur at ``depth`` (thin lens: grows with |1/focus - 1/depth|)."""
        return self.aperture * np.abs(1 / self.focus - 1 / depth)


@dataclass(frozen=True)
class Window:
    """A rectangle of image pixels, which may reach outside, with ``zoom`` x ``zoom`` samples in each."""

    left: int
    top: int
    width: int
    height: int
    zoom: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of samples."""
        return self.height * self.zoom, self.width * self.zoom

    def samples(self, pixels: np.ndarray) -> np.ndarray:
        """Image pixels (N, 2) -> this window's samples."""
        return (pixels - (self.left, self.top)) * self.zoom

    def rays(self, camera: Camera, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Directions float32 (N, 3), of depth 1, through samples."""
        pixels = (np.stack([columns, rows], -1) + 0.5) / self.zoom + (self.left, self.top)
        plane = (pixels - np.array(camera.size[::-1]) / 2) / camera.focal
        return np.float32(plane @ camera.axes[:2] + camera.axes[2])

    def overlap(self, size: Size) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The shared pixels twice: in an image of ``size``, and in this window."""
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = max(min(self.top + self.height, size[0]), top), max(min(self.left + self.width, size[1]), left)
        image = (slice(top, bottom), slice(left, right))
        return image, (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left))
