"""The value types everybody shares: image records, samples, batches of truth, detections, letterboxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # flags and cfgs need ``Size`` from here, and must not wait for torch
    import torch
    from torch import Tensor

Size = tuple[int, int]  # always (height, width)


@dataclass(frozen=True)
class ImageRecord:
    """One annotated image of a data set, before its pixels are read.

    Attributes:
        image_id: the id evaluation uses (COCO's, or the position in a list file).
        path: the image file.
        size: (H, W) after EXIF orientation is applied.
        boxes: float32 (N, 4) xyxy, pixels of the image.
        labels: int64 (N,) class indices, 0-based.
        crowd: bool (N,); a crowd box is neither a positive nor a negative.
        areas: float (N,), the areas by which COCO calls an object small, medium or large: there the area of the
            mask, not of the box. None means the areas of the boxes.
    """

    image_id: int
    path: Path
    size: Size
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray | None = None


def class_counts(records: Sequence[ImageRecord], classes: int) -> list[int]:
    """Objects of each class, what ``counters_per_class`` of a [yolo] section weighs classes by."""
    labels = [record.labels[~record.crowd] for record in records]
    return np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=classes).tolist()


@dataclass(frozen=True)
class Sample:
    """An image with its truth: uint8 (H, W, 3) RGB, boxes float32 (N, 4) xyxy pixels, labels (N,), crowd (N,)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


class Targets(NamedTuple):
    """Ground truth of a batch, all boxes of all images in one list.

    Attributes:
        image_index: int64 (T,), the image of the batch a box belongs to.
        labels: int64 (T,).
        boxes: float32 (T, 4) xyxy, pixels of the network input.
        crowd: bool (T,).
    """

    image_index: Tensor
    labels: Tensor
    boxes: Tensor
    crowd: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """The same targets on ``device``."""
        return Targets(*(tensor.to(device, non_blocking=True) for tensor in self))


class TrackedTargets(NamedTuple):
    """`Targets` that also say which boxes show the same object, in several views of an image.

    Attributes:
        image_index, labels, boxes, crowd: as in `Targets`.
        tracks: int64 (T,), not negative; equal for boxes of one object.
    """

    image_index: Tensor
    labels: Tensor
    boxes: Tensor
    crowd: Tensor
    tracks: Tensor

    def to(self, device: torch.device | str) -> TrackedTargets:
        """The same targets on ``device``."""
        return TrackedTargets(*(tensor.to(device, non_blocking=True) for tensor in self))


class Batch(NamedTuple):
    """What the training loader yields.

    Attributes:
        images: uint8 (B, 3, H, W) RGB; the training loop moves, casts and divides by 255.
        targets: the truth in input pixels; `TrackedTargets` where mini-batches hold several views of an image.
        names: the image files each row was made of, for messages.
    """

    images: Tensor
    targets: Targets | TrackedTargets
    names: tuple[str, ...]


class LabelledBatch(NamedTuple):
    """What the training loader of a classifier yields.

    Attributes:
        images: uint8 (B, 3, H, W) RGB.
        truth: float32 (B, K), how much of each class is in an image; rows sum to 1.
        names: the image files each row was made of, for messages.
    """

    images: Tensor
    truth: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image, by falling score.

    Attributes:
        boxes: float32 (N, 4) xyxy, original pixels.
        scores: float32 (N,) in [0, 1].
        labels: int64 (N,).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the network input: input = original * scale + (left, top).

    Stretching is the case left = top = 0 with two different scales; Darknet's integer letterbox also has
    scales that differ in the last pixel, hence one for each axis.

    Attributes:
        scale_x, scale_y: input pixels for one original pixel.
        left, top: offset in input pixels (Darknet undoes with halves, so float).
        size: (H, W) of the network input.
        original_size: (H, W) of the image.
    """

    scale_x: float
    scale_y: float
    left: float
    top: float
    size: Size
    original_size: Size

    def apply(self, boxes: Tensor) -> Tensor:
        """Original pixels to input pixels; boxes (..., 4) xyxy."""
        return boxes * boxes.new_tensor(self._scales) + boxes.new_tensor(self._offsets)

    def undo(self, boxes: Tensor) -> Tensor:
        """Input pixels to original pixels; boxes (..., 4) xyxy."""
        return (boxes - boxes.new_tensor(self._offsets)) / boxes.new_tensor(self._scales)

    @property
    def _scales(self) -> tuple[float, float, float, float]:
        return (self.scale_x, self.scale_y, self.scale_x, self.scale_y)

    @property
    def _offsets(self) -> tuple[float, float, float, float]:
        return (self.left, self.top, self.left, self.top)
