"""Things to pictures: coverage, shading, cast shadows, depth of field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.sample.camera import NEAR, Camera, Window
from data.sample.lens import blurred
from data.sample.mesh import Mesh, dot, normalized, transform
from data.sample.objects import Model
from data.sample.raster import barycentric, counter_clockwise, fill, planes_of, rasterize

if TYPE_CHECKING:  # utils.structures imports torch, which the drawing processes can do without
    from utils.structures import Size

_COARSE = 100  # pixels; what is larger is shaded once a pixel instead of at every sample


@dataclass(frozen=True)
class Light:
    """Sun or lamp, and what comes from everywhere else.

    Attributes:
        direction: (3,) unit vector towards the light.
        direct, above, below: linear RGB of the light itself, of the sky or ceiling, of what the ground throws back.
        softness: blur of shadow edges, as a fraction of the object's size on the image.
        window: (3, 3) frame of a bright window, rows right, up, towards; only glossy things mirror it.
    """

    direction: np.ndarray
    direct: np.ndarray
    above: np.ndarray
    below: np.ndarray
    softness: float
    window: np.ndarray

    def single(self) -> Light:
        """The same light in single precision, for arithmetic on every pixel."""
        vectors = (self.direction, self.direct, self.above, self.below)
        return Light(*(np.float32(vector) for vector in vectors), self.softness, np.float32(self.window))


@dataclass(frozen=True)
class Thing:
    """One object of a scene; ``label`` is its class index, None for clutter."""

    model: Model
    label: int | None
    rotation: np.ndarray
    scale: float
    offset: np.ndarray

    @cached_property
    def mesh(self) -> Mesh:
        """The mesh in the world."""
        return transform(self.model.mesh, self.rotation, self.scale, self.offset)


@dataclass(frozen=True)
class Cover:
    """What one thing covers of the image, were it alone.

    Attributes:
        thing: whose it is.
        window: where.
        faces: int32 (h * zoom, w * zoom), 1 + the mesh face seen there, 0 for none.
        alpha: float32 (h, w), the part of each pixel that is covered.
        depth: distance of the nearest point.
    """

    thing: Thing
    window: Window
    faces: np.ndarray
    alpha: np.ndarray
    depth: float

    def on_image(self, size: Size) -> np.ndarray:
        """Coverage float32 (H, W) on the whole image."""
        canvas = np.zeros(size, np.float32)
        inside, window = self.window.overlap(size)
        canvas[inside] = self.alpha[window]
        return canvas


def cover(thing: Thing, camera: Camera) -> Cover | None:
    """Which pixels ``thing`` covers; None when it comes too near, is far too large, or is out of sight."""
    pixels, depth = camera.project(thing.mesh.vertices)
    if depth.min() < NEAR:
        return None
    low, high = np.floor(pixels.min(0)).astype(int) - 1, np.ceil(pixels.max(0)).astype(int) + 1
    bounds = np.array(camera.size[::-1])
    if np.any(high - low > 1.7 * bounds) or np.any(high < 0) or np.any(low > bounds):
        return None
    window = Window(*low.tolist(), *(high - low).tolist(), zoom=3 if max(high - low) < 50 else 2)
    faces = rasterize(thing.mesh, camera, window)
    alpha = cv2.resize(np.float32(faces > 0), (window.width, window.height), interpolation=cv2.INTER_AREA)
    return Cover(thing, window, faces, alpha, float(depth.min()))


def shade(covered: Cover, camera: Camera, light: Light) -> np.ndarray:
    """Linear RGB of a cover's window, float32 (h, w, 3), multiplied by its alpha."""
    faces, window = covered.faces, covered.window
    if max(window.width, window.height) > _COARSE:
        step = window.zoom
        faces = np.maximum.reduce([faces[y::step, x::step] for y in range(step) for x in range(step)])
        window = replace(window, zoom=1)
    rows, columns = np.nonzero(faces)
    face = faces[rows, columns] - 1
    rays = window.rays(camera, rows, columns)
    thing, mesh = covered.thing, covered.thing.mesh
    corners, weights = mesh.faces[face], barycentric(rays, planes_of(mesh, camera.position), face)
    packed = np.hstack([mesh.normals, thing.model.mesh.vertices, mesh.vertices[:, 2:]]).astype(np.float32)
    values = sum(weights[:, k, None] * packed[corners[:, k]] for k in range(3))
    normals, local, height = normalized(values[:, :3]), values[:, 3:6], values[:, 6]
    albedo, gloss = thing.model.paint(local, mesh.parts[face])
    colour = _radiance(albedo, gloss, normals, -normalized(rays), light.single())
    # Near the ground less of the sky is seen.
    contact = 1 - 0.55 * np.exp(-height / (0.12 * thing.scale)) * (normals[:, 2] < 0.7)
    samples = np.zeros((*faces.shape, 3), np.float32)
    samples[rows, columns] = colour * contact[:, None]
    if window.zoom == 1:
        return samples * covered.alpha[..., None]
    return cv2.resize(samples, (window.width, window.height), interpolation=cv2.INTER_AREA)


def shadow(things: Sequence[Thing], camera: Camera, direction: np.ndarray, softness: float) -> np.ndarray:
    """How much of the light from ``direction`` (3,) the ground loses, float32 (H, W) in [0, 1].

    Args:
        softness: blur of the edges, as a fraction of each thing's size on the image.
    """
    total = np.zeros(camera.size, np.float32)
    for thing in things:
        points = thing.mesh.vertices
        flat = points - direction * (points[:, 2:] / direction[2])
        pixels, depth = camera.project(flat)
        faces = thing.mesh.faces[(depth[thing.mesh.faces] > NEAR).all(1)]
        corners = pixels[faces]  # (F, 3, 2)
        lit = counter_clockwise(corners)  # the light's side, seen through its shadow on the ground
        near = np.abs(corners - np.array(camera.size[::-1]) / 2).max((1, 2)) < 4 * max(camera.size)
        blur = max(0.6, softness * camera.focal * thing.scale / max(float(depth.min()), NEAR))
        _darken(total, corners[lit & near], blur)
    return total


def _darken(total: np.ndarray, corners: np.ndarray, blur: float) -> None:
    """Raise ``total`` (H, W) in place to the blurred shape of triangles (F, 3, 2), where it is lower."""
    if not len(corners):
        return
    pad = int(3 * blur) + 2
    low = np.clip(corners.min((0, 1)) - pad, 0, total.shape[::-1]).astype(int)
    high = np.clip(corners.max((0, 1)) + pad + 1, low, total.shape[::-1]).astype(int)
    if (high - low).min() < 1:
        return
    mask = np.zeros((high - low)[::-1], np.float32)
    fill(mask, corners - low, [1.0] * len(corners))
    region = total[low[1] : high[1], low[0] : high[0]]
    np.maximum(region, blurred(mask, blur), out=region)


def composite(image: np.ndarray, covered: Cover, colour: np.ndarray, camera: Camera) -> None:
    """Lay a shaded cover over ``image`` in place, out of focus as its distance wants it."""
    layer, window = np.dstack([colour, covered.alpha]), covered.window
    sigma = camera.defocus(covered.depth + 0.3 * covered.thing.scale)
    if sigma > 0.3:
        pad = int(3 * sigma)
        layer = blurred(cv2.copyMakeBorder(layer, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0), float(sigma))
        height, width = layer.shape[:2]
        window = Window(window.left - pad, window.top - pad, width, height, 1)
    inside, part = window.overlap(camera.size)
    image[inside] = image[inside] * (1 - layer[part][..., 3:]) + layer[part][..., :3]


def _radiance(albedo: np.ndarray, gloss: np.ndarray, normals: np.ndarray, view: np.ndarray, light: Light) -> np.ndarray:
    """Linear RGB (N, 3) towards the viewer: Lambert, a Blinn-Phong highlight, and mirrored surroundings (Schlick)."""
    towards = np.clip(normals @ light.direction, 0, 1)[:, None]
    ambient = light.below + (light.above - light.below) * (normals[:, 2:] * 0.5 + 0.5)
    shininess = 8 + 120 * gloss**2
    highlight = np.clip(dot(normals, normalized(view + light.direction)), 0, 1) ** shininess
    facing = np.clip(dot(normals, view), 0, 1)
    fresnel = gloss * (0.04 + 0.5 * (1 - facing) ** 5)
    mirror = 2 * facing[:, None] * normals - view
    across, up, ahead = light.window @ mirror.T
    bright = (
        (np.abs(across) < 0.28) & (np.abs(up) < 0.36) & (np.abs(up) > 0.02) & (np.abs(across) > 0.015) & (ahead > 0)
    )
    surroundings = np.where(mirror[:, 2:] > 0, light.above, light.below) + 5 * bright[:, None] * light.above.mean()
    glint = (gloss * highlight * towards[:, 0])[:, None] * light.direct
    return albedo * (ambient + light.direct * towards) + fresnel[:, None] * surroundings + 0.6 * glint
