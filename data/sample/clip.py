"""A drawn clip: a camera circles a table or a yard on which balls roll between the sample's objects."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.sample.camera import Camera
from data.sample.lens import photograph
from data.sample.mesh import normalized, rotation
from data.sample.objects import CLASSES, CLUTTER
from data.sample.pool import in_order
from data.sample.render import Thing
from data.sample.scene import Scene, covers_of, draw_stage, place, render
from utils.keyed_random import keyed_rng
from utils.video import VideoWriter

if TYPE_CHECKING:  # utils.structures imports torch, which the drawing processes can do without
    from utils.structures import Size

_CLIP = 2  # the purpose in the key, beside the splits 0 and 1
_ARC = 70.0  # degrees the camera circles in the whole clip
_TRAVEL = 2.5  # world units a ball rolls in the whole clip


def render_clip(
    path: Path,
    *,
    seconds: float = 6,
    fps: int = 25,
    size: Size = (360, 640),
    seed: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Draw a clip of the sample's classes into an H.264 .mp4.

    Args:
        path: the file; its folder is made.
        size: (H, W), even numbers.
        workers: processes; None is one for each core, at most eight.

    Returns:
        ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = max(1, round(seconds * fps))
    draw = partial(draw_frame, size, seed, frames)
    drawn = in_order(draw, range(frames), workers, "drawing clip" if progress else None)
    with VideoWriter(path, Fraction(fps)) as video:
        for picture in drawn:
            video.write(picture)
    return path


def draw_frame(size: Size, seed: int, frames: int, index: int) -> np.ndarray:
    """Frame ``index`` of ``frames``: uint8 (H, W, 3) RGB."""
    part = index / max(frames - 1, 1)
    scene = _stage(size, seed)
    things = tuple(_rolled(thing, part) for thing in scene.things)
    scene = replace(scene, camera=_camera(size, part), things=things)
    light, _ = render(scene, covers_of(scene))
    return photograph(light, keyed_rng(seed, _CLIP, 1), grain=keyed_rng(seed, _CLIP, 2, index), steady=True)


def _camera(size: Size, part: float) -> Camera:
    """The camera after ``part`` of the clip."""
    return Camera.looking_at(
        np.array([0, 0, 0.3]),
        distance=8.5 - 2.5 * part,
        pitch=24 + 8 * part,
        heading=_ARC * (part - 0.5),
        roll=0,
        focal=size[1] * 1.05,
        size=size,
    )


@lru_cache(maxsize=1)
def _stage(size: Size, seed: int) -> Scene:
    """Where everything stands at the start."""
    rng = keyed_rng(seed, _CLIP, 0)
    scene = draw_stage(rng, _camera(size, 0.5))
    things: list[Thing] = []
    for name in [*CLASSES, "ball", *CLUTTER, *CLASSES]:
        thing = place(rng, name, scene.camera, scene.surroundings, things)
        things += [thing] if thing else []
    return replace(scene, things=tuple(things))


def _rolled(thing: Thing, part: float) -> Thing:
    """A ball, rolled away from the middle without slipping; anything else stays as it is."""
    if thing.label != list(CLASSES).index("ball"):
        return thing
    ahead = normalized(thing.offset * (1, 1, 0))
    distance, radius = _TRAVEL * part, 0.5 * thing.scale
    turn = rotation((-ahead[1], ahead[0], 0), np.rad2deg(distance / radius))
    return replace(thing, offset=thing.offset + distance * ahead, rotation=turn @ thing.rotation)
