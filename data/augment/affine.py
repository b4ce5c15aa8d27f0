"""Moving a finished training image about: scale, translation and shear as one affine map of its pixels and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.structures import Sample, Size

_LEAST_SHOWN = 0.1  # of a box; the object of one that shows less cannot be known
_CORNERS = np.array([[0, 1], [2, 1], [2, 3], [0, 3]])  # of a box xyxy: where x and y of each stand, in order round it
_PARALLEL = 1e-9  # pixels


@dataclass(frozen=True)
class Affine:
    """The ranges of the map; the defaults leave everything where it is.

    Attributes:
        scale: enlarge by a factor from 1 - ``scale`` to 1 + ``scale``.
        translate: move by up to this part of the side, in each direction.
        shear: degrees the axes lean by, at most, each on its own.
    """

    scale: float = 0.0
    translate: float = 0.0
    shear: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.scale or self.translate or self.shear)

    def sample(self, rng: np.random.Generator, canvas: Size, size: Size) -> np.ndarray:
        """Draw a map from a canvas (H, W) to an image of ``size``, centre to centre before it is moved: (2, 3).

        It takes points (x, y, 1), in continuous pixels: the corner of an image is 0, not the middle of a pixel.
        """
        scale = max(rng.uniform(1 - self.scale, 1 + self.scale), 0.01)
        lean_x, lean_y = np.tan(np.radians(rng.uniform(-self.shear, self.shear, size=2)))
        turn = scale * np.array([[1, lean_x], [lean_y, 1]])
        move = rng.uniform(-self.translate, self.translate, size=2)
        sides, canvas_sides = np.array([size[1], size[0]]), np.array([canvas[1], canvas[0]])
        return np.column_stack([turn, sides * (0.5 + move) - turn @ (canvas_sides / 2)])


NO_MOTION = Affine()


def warp(sample: Sample, matrix: np.ndarray, size: Size) -> Sample:
    """``sample`` under the map ``matrix`` (2, 3), on an image of ``size`` (H, W), boxes and all.

    A box becomes the tightest one round what shows of it, and is left out where that is less than a tenth, or less
    than a pixel wide or high. Beyond the image comes its mean colour.
    """
    middle = np.full(2, 0.5)  # OpenCV counts from the middle of the first pixel
    shifted = np.column_stack([matrix[:, :2], matrix @ [*middle, 1] - middle])
    image = cv2.warpAffine(
        sample.image, shifted, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderValue=cv2.mean(sample.image)[:3]
    )
    boxes, shown = visible_part(sample.boxes, matrix, size)
    keep = (shown >= _LEAST_SHOWN) & ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
    return Sample(image, boxes[keep].astype(np.float32), sample.labels[keep], sample.crowd[keep])


def visible_part(boxes: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """What an image shows of mapped boxes.

    A mapped box is a parallelogram. What the image shows of it ends where one of its edges does, or the part of the
    edge inside the image, or at a corner of the image that lies in it.

    Args:
        boxes: (N, 4) xyxy before the map.
        size: (H, W) of the image.

    Returns:
        Boxes (N, 4) xyxy round what shows, all 0 where nothing does, and their share of the area that they would have
        on an image without end, (N,).
    """
    boxes = boxes.astype(np.float64)
    corners = boxes[:, _CORNERS] @ matrix[:, :2].T + matrix[:, 2]  # (N, 4, 2)
    first, last, cuts = _inside(corners, np.roll(corners, -1, axis=1), size)
    frame = np.array([[0, 0], [size[1], 0], [size[1], size[0]], [0, size[0]]], np.float64)
    back = np.linalg.solve(matrix[:, :2], (frame - matrix[:, 2]).T).T  # (4, 2), the image's corners before the map
    covered = ((back >= boxes[:, None, :2]) & (back <= boxes[:, None, 2:])).all(axis=2)
    points = np.concatenate([first, last, np.broadcast_to(frame, corners.shape)], axis=1)  # (N, 12, 2)
    seen = np.concatenate([cuts, cuts, covered], axis=1)[..., None]
    low, high = np.where(seen, points, np.inf).min(axis=1), np.where(seen, points, -np.inf).max(axis=1)
    visible = np.where(seen.any(axis=1), np.concatenate([low, high], axis=1), 0.0)
    endless = (corners.max(axis=1) - corners.min(axis=1)).prod(axis=1)
    return visible, (visible[:, 2:] - visible[:, :2]).prod(axis=1) / np.maximum(endless, np.finfo(np.float64).tiny)


def _inside(start: np.ndarray, end: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ends of what an image shows of lines from ``start`` to ``end`` (..., 2), and whether it shows any."""
    step = end - start
    step = np.where(np.abs(step) < _PARALLEL, _PARALLEL, step)  # so little aside that it does not matter
    crossings = np.sort([-start / step, ([size[1], size[0]] - start) / step], axis=0)
    enter, leave = crossings[0].max(axis=-1).clip(min=0), crossings[1].min(axis=-1).clip(max=1)
    return start + enter[..., None] * step, start + leave[..., None] * step, enter <= leave
