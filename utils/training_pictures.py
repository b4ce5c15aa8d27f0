"""Pictures of a training: a batch as the network sees it, and what the network finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from utils.draw import batch_grid
from utils.image import read_image
from utils.structures import Batch, Detections, ImageRecord

_SHOWN_SCORE = 0.25  # of the detections that are drawn


def batch_picture(batch: Batch, names: Sequence[str], count: int = 16) -> np.ndarray:
    """The first ``count`` images of a mini-batch with their truth, side by side: uint8 (H, W, 3) RGB."""
    rows = [batch.targets.image_index == index for index in range(min(len(batch.images), count))]
    return batch_grid(
        [image.permute(1, 2, 0).numpy() for image in batch.images[: len(rows)]],
        [batch.targets.boxes[row].numpy() for row in rows],
        [batch.targets.labels[row].numpy() for row in rows],
        names,
    )


def detections_picture(
    records: Sequence[ImageRecord], detections: Mapping[int, Detections], names: Sequence[str], count: int = 4
) -> np.ndarray:
    """The first ``count`` images with what was found in them, side by side: uint8 (H, W, 3) RGB.

    Args:
        detections: by ``image_id``.
    """
    records = records[:count]
    found = [detections[record.image_id] for record in records]
    sure = [detections.scores > _SHOWN_SCORE for detections in found]
    return batch_grid(
        [read_image(record.path) for record in records],
        [detections.boxes[keep].numpy() for detections, keep in zip(found, sure, strict=True)],
        [detections.labels[keep].numpy() for detections, keep in zip(found, sure, strict=True)],
        names,
    )
