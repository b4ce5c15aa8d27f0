"""The ways of measuring that eval.py's ``--protocol`` chooses from."""

from __future__ import annotations

from typing import NamedTuple

from evaluation.coco import MAX_DETECTIONS


class Protocol(NamedTuple):
    """How a network is run before it is measured.

    Attributes:
        score_threshold, nms_threshold: what is kept, unless flags say otherwise.
        max_detections: the best so many of an image count; None: all.
        clip: cut boxes at the border of the image.
        by_objectness: boxes of any class, one a cell.
    """

    score_threshold: float
    nms_threshold: float = 0.45
    max_detections: int | None = None
    clip: bool = False
    by_objectness: bool = False


PROTOCOLS = {
    # AP needs the whole precision curve; the threshold of detect.py and `detector map` for suppression.
    "coco": Protocol(0.001, max_detections=MAX_DETECTIONS, clip=True),
    "darknet": Protocol(0.005),  # `detector map`
    "recall": Protocol(0.001, nms_threshold=0.4, by_objectness=True),  # `detector recall`
}
