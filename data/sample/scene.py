"""Sample scenes: what stands where, how it is lit, and what a camera makes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data.sample.camera import NEAR, Camera
from data.sample.lens import defocused
from data.sample.mesh import normalized, rotation
from data.sample.objects import CLASSES, CLUTTER, Rng, linear, pose
from data.sample.render import Cover, Light, Thing, composite, cover, shade, shadow
from data.sample.textures import BACKDROPS, GROUNDS, PANORAMA, TILE, noise, sky

if TYPE_CHECKING:  # utils.structures imports torch, which the drawing processes can do without
    from utils.structures import Size

Box = tuple[int, int, int, int]  # xyxy, pixels

FAR = 0.08  # share of scenes seen from far away, with objects down to 10 px
MAX_HIDDEN = 0.5  # an object hidden by more than this is left out of the scene
MIN_SIDE = 10  # pixels; an object that shows less is left out too


@dataclass(frozen=True)
class Surroundings:
    """Everything but the objects.

    Attributes:
        ground: float32 (TILE, TILE, 3) linear RGB, repeated every ``tile`` world units.
        backdrop: float32 (*PANORAMA, 3) linear RGB, seen beyond the ground.
        far: where the ground ends, in world units from the origin.
        square: whether the ground is a square and not a disc.
        pools: float32 (128, 128), uneven light on the ground, about 1.
    """

    ground: np.ndarray
    backdrop: np.ndarray
    tile: float
    far: float
    square: bool
    pools: np.ndarray

    def reaches(self, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray | bool:
        """Whether there is ground at (x, y)."""
        return np.maximum(np.abs(x), np.abs(y)) < self.far if self.square else np.hypot(x, y) < self.far


@dataclass(frozen=True)
class Scene:
    """A picture before it is taken."""

    camera: Camera
    light: Light
    surroundings: Surroundings
    things: tuple[Thing, ...]


def draw_scene(rng: Rng, size: Size) -> Scene:
    """A random scene: objects, most of them near each other, and some clutter."""
    scene = draw_stage(rng, _draw_camera(rng, size))
    wanted = [*rng.choice(list(CLASSES), int(rng.integers(3, 9))), *rng.choice(list(CLUTTER), int(rng.integers(0, 5)))]
    things: list[Thing] = []
    for name in wanted:
        thing = place(rng, str(name), scene.camera, scene.surroundings, things)
        things += [thing] if thing else []
    return replace(scene, things=tuple(things))


def draw_stage(rng: Rng, camera: Camera) -> Scene:
    """Ground, backdrop and light, with nothing there yet."""
    outdoors = rng.random() < 0.4
    surroundings = _draw_surroundings(rng, outdoors)
    return Scene(camera, _draw_light(rng, outdoors, surroundings.ground.mean((0, 1))), surroundings, ())


def covers_of(scene: Scene) -> list[Cover]:
    """What each thing in sight covers, far to near."""
    covers = [covered for covered in (cover(thing, scene.camera) for thing in scene.things) if covered]
    return sorted(covers, key=lambda covered: -covered.depth)


def without_hidden(scene: Scene) -> tuple[Scene, list[Cover]]:
    """The scene without the objects of which too little shows, and the covers of the rest."""
    covers = unhidden(covers_of(scene), scene.camera.size)
    return replace(scene, things=tuple(covered.thing for covered in covers)), covers


def unhidden(covers: list[Cover], size: Size) -> list[Cover]:
    """Of ``covers``, far to near, those to keep: clutter, and objects of which enough shows."""
    taken, kept = np.zeros(size, bool), []
    for covered in reversed(covers):
        mine = covered.on_image(size) >= 0.5
        shown, whole = (mine & ~taken).sum(), (covered.alpha >= 0.5).sum()
        left, top, right, bottom = box_of(mine) or (0, 0, 0, 0)
        seen = shown >= (1 - MAX_HIDDEN) * whole and min(right - left, bottom - top) >= MIN_SIDE
        if seen or covered.thing.label is None:
            kept.append(covered)
            taken |= mine
    return kept[::-1]


def box_of(mask: np.ndarray) -> Box | None:
    """The xyxy box of a boolean mask's pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def render(scene: Scene, covers: list[Cover]) -> tuple[np.ndarray, list[tuple[int, Box, int]]]:
    """Draw ``scene``, whose things in sight cover ``covers`` (far to near).

    Returns:
        float32 (H, W, 3) linear RGB, and (label, box, area) of each object: extent and pixels of the whole object on
        the image, whether or not something stands before it.
    """
    camera, light = scene.camera, scene.light
    image = _draw_background(scene)
    objects = []
    for covered in covers:
        composite(image, covered, shade(covered, camera, light), camera)
        mask = covered.on_image(camera.size) >= 0.5
        if covered.thing.label is not None and mask.any():
            objects.append((covered.thing.label, box_of(mask), int(mask.sum())))
    return image, objects


def _draw_camera(rng: Rng, size: Size) -> Camera:
    near, far = (10, 25) if rng.random() < FAR else (3.5, 10)
    distance = float(np.exp(rng.uniform(np.log(near), np.log(far))))
    target = np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0, 0.5)])
    return Camera.looking_at(
        target,
        distance,
        pitch=float(rng.choice([rng.uniform(10, 25), rng.uniform(25, 50), rng.uniform(50, 80)], p=[0.4, 0.45, 0.15])),
        heading=float(rng.uniform(0, 360)),
        roll=float(rng.normal(0, 2.5)),
        focal=size[1] * float(rng.uniform(0.9, 1.5)),
        size=size,
        aperture=float(rng.uniform(4, 16) * distance / 6 * size[1] / 416) if rng.random() < 0.4 else 0.0,
    )


def _draw_surroundings(rng: Rng, outdoors: bool) -> Surroundings:
    grounds = GROUNDS[2:] if outdoors else tuple(ground for ground in GROUNDS if ground.__name__ != "grass")
    return Surroundings(
        ground=grounds[rng.integers(len(grounds))](rng).astype(np.float32),
        backdrop=(sky if outdoors else BACKDROPS[rng.integers(1, 3)])(rng),
        tile=float(rng.uniform(3, 7)),
        far=100.0 if outdoors else float(rng.uniform(4, 9)),
        square=bool(rng.random() < 0.6),
        pools=np.exp(rng.uniform(0, 0.35) * noise(rng, (128, 128), (2, 2), 2)).astype(np.float32),
    )


def _draw_light(rng: Rng, outdoors: bool, ground: np.ndarray) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(30, 72))
    direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    hardness = rng.uniform(0.15, 1)  # overcast .. clear
    warm = linear(255, *rng.uniform((215, 165), (250, 240)))
    direct = 2.6 * hardness * warm
    above = (1.05 - 0.65 * hardness) * (linear(205, 222, 255) if outdoors else linear(250, 243, 232))
    below = 0.6 * ground * (above + direct * direction[2])
    turn = rotation((0, 0, 1), rng.uniform(0, 360)) @ rotation((0, 1, 0), rng.uniform(-65, -25))
    window = turn[:, [1, 2, 0]].T
    return Light(direction, direct, above, below, float(rng.uniform(0.01, 0.12) / hardness**0.5), window)


def place(rng: Rng, name: str, camera: Camera, around: Surroundings, others: list[Thing]) -> Thing | None:
    """One object on free ground in sight of the camera, or None when no place is found."""
    label = list(CLASSES).index(name) if name in CLASSES else None
    scale, needed = float(np.exp(rng.normal(0, 0.18))), rng.uniform(0.5, 1)
    detail = int(np.clip(camera.focal * scale / camera.focus / 2.5, 14, 44))
    thing = Thing((CLASSES | CLUTTER)[name](rng, detail), label, pose(name, rng), scale, np.zeros(3))
    low, high = thing.mesh.vertices.min(0), thing.mesh.vertices.max(0)
    for _ in range(12):
        spot = _ground_spot(rng, camera, others)
        if spot is None or not around.reaches(*spot[:2]) or np.linalg.norm(spot - camera.position) > 2.3 * camera.focus:
            continue
        offset = spot - np.array([*(low + high)[:2] / 2, low[2]])
        if any(_meet(low + offset, high + offset, other) for other in others):
            continue
        placed = replace(thing, offset=offset)
        if _in_frame(placed, camera) > needed:
            return placed
    return None


def _ground_spot(rng: Rng, camera: Camera, others: list[Thing]) -> np.ndarray | None:
    """A point of the ground within the image; now and then close behind an object, so that the two overlap."""
    height, width = camera.size
    if others and rng.random() < 0.25:
        other = others[rng.integers(len(others))]
        away = normalized((other.offset - camera.position) * (1, 1, 0))
        spot = other.offset + rng.uniform(0.7, 1.6) * away + rng.normal(0, 0.35, 3)
        return spot * (1, 1, 0)
    row, column = rng.uniform((0.12 * height, 0.06 * width), (0.95 * height, 0.94 * width))
    ray = camera.rays[int(row), int(column)]
    return camera.position + ray * (-camera.position[2] / ray[2]) if ray[2] < -0.05 else None


def _meet(low: np.ndarray, high: np.ndarray, other: Thing) -> bool:
    """Whether the bounding box from ``low`` to ``high`` (3,) meets another thing's, seen from above."""
    vertices = other.mesh.vertices
    return bool(np.all(low[:2] < vertices.max(0)[:2]) and np.all(high[:2] > vertices.min(0)[:2]))


def _in_frame(thing: Thing, camera: Camera) -> float:
    """The part of a thing's corners that lies within the image."""
    pixels, depth = camera.project(thing.mesh.vertices)
    return float(((pixels > 0) & (pixels < camera.size[::-1]) & (depth[:, None] > NEAR)).all(1).mean())


def _draw_background(scene: Scene) -> np.ndarray:
    """Ground with shadows, and the backdrop beyond it: float32 (H, W, 3) linear RGB."""
    camera, light, around = scene.camera, scene.light.single(), scene.surroundings
    rays, start = camera.rays, np.float32(camera.position)
    falls = rays[..., 2] < -1e-4
    reach = np.where(falls, start[2] / np.where(falls, -rays[..., 2], 1), np.float32(np.inf))
    spots = start[:2] + rays[..., :2] * np.where(falls, reach, 0)[..., None]  # (H, W, 2) on the ground
    on_ground = falls & around.reaches(spots[..., 0], spots[..., 1])
    reach = np.minimum(reach, np.float32(around.far))
    texels = reach / np.float32(camera.focal * around.tile / TILE) / np.sqrt(np.maximum(np.abs(rays[..., 2]), 0.05))
    level = np.where(on_ground, np.log2(np.maximum(texels, 1)), 0)
    lost = shadow(scene.things, camera, light.direction, light.softness)[..., None]
    dimmed = shadow(scene.things, camera, np.array([0, 0, 1]), 0.13)[..., None]
    tiles = spots / np.float32(around.tile)
    pools = _sample(around.pools[..., None], tiles / 4, np.zeros_like(level))
    arriving = light.above * (1 - 0.7 * dimmed - 0.2 * lost) + light.direct * light.direction[2] * (1 - lost) * pools
    ground = _sample(around.ground, tiles, level) * arriving
    beyond = _backdrop(around.backdrop, rays) * (light.above + 0.5 * light.direct)
    image = np.where(on_ground[..., None], ground, beyond)
    return defocused(image, camera.defocus(reach)) if camera.aperture else image


def _sample(texture: np.ndarray, spots: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Look up a repeating texture at ``spots`` (H, W, 2), in tiles.

    Args:
        level: (H, W), how often the texture is to be halved first; between whole numbers two copies are mixed.
    """
    result = np.zeros((*level.shape, texture.shape[2]), np.float32)
    place = np.minimum(level, 7)
    spots = spots - np.floor(spots)
    for step in range(int(np.ceil(place.max())) + 1):
        weight = np.clip(1 - np.abs(place - step), 0, 1)
        rows = np.flatnonzero(weight.any(1))
        side = texture.shape[0]
        if len(rows):
            part = slice(rows[0], rows[-1] + 1)
            found = cv2.remap(texture, spots[part] * side - 0.5, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
            result[part] += found.reshape(result[part].shape) * weight[part, :, None]
        texture = cv2.resize(texture, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        texture = texture.reshape(side // 2, side // 2, -1)
    return result


def _backdrop(panorama: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Look up a panorama by direction; it repeats round the horizon and spans -22 to 36 degrees of elevation."""
    azimuth = np.arctan2(rays[..., 1], rays[..., 0]) / (2 * np.pi) * 4
    elevation = np.rad2deg(np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1])))
    at_x = np.float32(azimuth % 1 * PANORAMA[1])
    at_y = np.float32(np.clip((36 - elevation) / 58 * PANORAMA[0], 0, PANORAMA[0] - 1))
    return cv2.remap(panorama, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
