"""A network together with everything that decides what it reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.darknet import Darknet
from models.postprocess import postprocess
from utils.structures import Detections, Letterbox


@dataclass(frozen=True)
class Detector:
    """A network with everything that decides what it reports.

    Attributes:
        letterbox: keep the aspect ratio of the pictures; else stretch them.
        wanted: class indices to report, None for all.
        most: detections a picture at most, None for all.
    """

    network: Darknet
    device: torch.device
    letterbox: bool
    score_threshold: float
    nms_threshold: float
    wanted: tuple[int, ...] | None
    most: int | None
    batch: int

    @torch.inference_mode()
    def detect(self, inputs: Sequence[np.ndarray], letterboxes: Sequence[Letterbox]) -> list[Detections]:
        """Detections of a batch; ``inputs`` float32 (3, H, W) each."""
        images = torch.from_numpy(np.stack(inputs)).to(self.device)
        found = postprocess(
            self.network(images),
            self.network.heads,
            letterboxes,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
        )
        return [select(detections, self.wanted, self.most) for detections in found]


def select(detections: Detections, wanted: Sequence[int] | None, most: int | None) -> Detections:
    """The ``most`` best detections of the ``wanted`` classes (None: no limit), on the CPU."""
    boxes, scores, labels = (part.cpu() for part in (detections.boxes, detections.scores, detections.labels))
    keep: Tensor | slice = slice(most)
    if wanted is not None:
        keep = torch.isin(labels, torch.tensor(wanted)).nonzero()[:most, 0]
    return Detections(boxes[keep], scores[keep], labels[keep])
