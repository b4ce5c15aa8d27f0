"""A handful of images as one mini-batch, as inference sees them: what a network can be shown to learn by heart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.dataset import Dataset
from data.loader import eval_loader
from utils.structures import Size, Targets


def handful(dataset: Dataset, count: int) -> Dataset:
    """Up to ``count`` images with boxes: of every class one, the rarest first, and with few boxes each."""
    objects = [record.labels[~record.crowd] for record in dataset.records]
    by_number = sorted((len(labels), row) for row, labels in enumerate(objects) if len(labels))
    candidates = [row for _, row in by_number]
    members: dict[int, list[int]] = {}
    for row in candidates:
        for label in np.unique(objects[row]).tolist():
            members.setdefault(label, []).append(row)
    rarest_first = sorted(members, key=lambda label: len(members[label]))
    chosen: list[int] = []
    for row in (*(members[label][0] for label in rarest_first), *candidates):
        if row not in chosen and len(chosen) < count:
            chosen.append(row)
    return replace(dataset, records=tuple(dataset.records[row] for row in sorted(chosen)))


def one_batch(dataset: Dataset, size: Size, *, letterbox: bool) -> tuple[Tensor, Targets]:
    """All images of ``dataset``: float (B, 3, H, W) in [0, 1], and their truth in input pixels.

    Args:
        size: (H, W) of the network input.
        letterbox: keep the aspect ratio; else stretch.
    """
    loader = eval_loader(dataset, batch=len(dataset), size=size, letterbox=letterbox, workers=0)
    ((images, letterboxes, records),) = loader
    placed = zip(letterboxes, records, strict=True)
    counts = [len(record.boxes) for record in records]
    return images, Targets(
        torch.from_numpy(np.repeat(np.arange(len(records)), counts)),
        torch.from_numpy(np.concatenate([record.labels for record in records])),
        torch.cat([letterbox.apply(torch.from_numpy(record.boxes)) for letterbox, record in placed]),
        torch.from_numpy(np.concatenate([record.crowd for record in records])),
    )
