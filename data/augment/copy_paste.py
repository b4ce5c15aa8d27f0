"""Copying objects of one training image into another, box by box (arXiv 2012.07177, with boxes in place of masks)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.augment.transforms import clip
from utils.structures import Sample

_MOST_COVERED = 0.3  # of a box that is there, by one that is pasted; and of a copied box by others beside it
_TRIES = 10  # places looked at for each object


@dataclass(frozen=True)
class Paste:
    """One object of a donor, and where its box goes: whole pixels, (left, top, right, bottom) and (x, y)."""

    index: int
    box: tuple[int, int, int, int]
    to: tuple[int, int]


def sample_pastes(rng: np.random.Generator, donor: Sample, host: Sample) -> tuple[Paste, ...]:
    """Draw which objects of ``donor`` go where on ``host``: half of those that stand free, where they cover little.

    Crowds are not copied, nor are boxes that others overlap, of whose objects parts would come along unnamed.
    """
    height, width = host.image.shape[:2]
    taken, pastes = host.boxes, []
    for index, box in enumerate(donor.boxes):
        others = np.delete(donor.boxes, index, axis=0)
        if donor.crowd[index] or rng.random() < 0.5 or (_covered(box, others, of=box) > _MOST_COVERED).any():
            continue
        left, top, right, bottom = _whole_pixels(box)
        across, down = width - (right - left), height - (bottom - top)
        if min(across, down) < 0 or right <= left or bottom <= top:
            continue
        for x, y in rng.integers(0, (across + 1, down + 1), size=(_TRIES, 2)).tolist():
            placed = np.array([x, y, x + right - left, y + bottom - top], np.float32)
            if (_covered(placed, taken, of=taken) <= _MOST_COVERED).all():
                taken = np.concatenate([taken, placed[None]])
                pastes.append(Paste(index, (left, top, right, bottom), (x, y)))
                break
    return tuple(pastes)


def apply_pastes(host: Sample, donor: Sample, pastes: tuple[Paste, ...]) -> Sample:
    """``host`` with the objects pasted: same arguments, same bytes."""
    image, boxes = host.image.copy(), [host.boxes]
    frame = (0, 0, image.shape[1], image.shape[0])
    for paste in pastes:
        (left, top, right, bottom), (x, y) = paste.box, paste.to
        image[y : y + bottom - top, x : x + right - left] = donor.image[top:bottom, left:right]
        moved = donor.boxes[paste.index : paste.index + 1] + np.array([x - left, y - top] * 2, np.float32)
        boxes.append(clip(moved, frame))  # rounding to pixels can leave half of one outside
    indices = [paste.index for paste in pastes]
    return Sample(
        image,
        np.concatenate(boxes),
        np.concatenate([host.labels, donor.labels[indices]]),
        np.concatenate([host.crowd, donor.crowd[indices]]),
    )


def _whole_pixels(box: np.ndarray) -> tuple[int, int, int, int]:
    """The pixels that belong to a box, an edge counting where it takes in half of one."""
    left, top, right, bottom = np.round(box).astype(int).tolist()
    return left, top, right, bottom


def _covered(box: np.ndarray, others: np.ndarray, *, of: np.ndarray) -> np.ndarray:
    """The overlap of ``box`` (4,) with each of ``others`` (N, 4) as a part of the area of ``of``, (4,) or (N, 4)."""
    extent = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    overlap = extent.clip(min=0).prod(axis=1)
    side = of[..., 2:] - of[..., :2]
    return overlap / np.maximum(side.prod(axis=-1), np.finfo(np.float32).tiny)
