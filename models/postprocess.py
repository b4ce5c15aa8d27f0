"""Raw heads to detections: thresholds, suppression and the way back to the original image, as Darknet does it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.heads.yolo import Candidates, DetectionHead
from utils.boxes import clip_boxes
from utils.nms import nms
from utils.structures import Detections, Letterbox


@torch.no_grad()
def postprocess(
    raws: Sequence[Tensor],
    heads: Sequence[DetectionHead],
    letterboxes: Sequence[Letterbox],
    *,
    score_threshold: float = 0.25,
    nms_threshold: float = 0.45,
    max_detections: int | None = None,
    clip: bool = False,
    by_objectness: bool = False,
) -> list[Detections]:
    """Turn the raw heads of a batch into detections in original pixels.

    A cell counts if its objectness exceeds ``score_threshold``, and it gives one detection for every class whose
    score, objectness times probability, exceeds it too (Darknet: a box may carry several classes). Suppression is
    per class, of the kind that the last head's section asks for.

    Args:
        raws: (B, A*E, GH, GW) of each head.
        heads: the heads, in the same order.
        letterboxes: where each of the B images lies in the input.
        nms_threshold: 1 keeps every box.
        max_detections: keep only so many of the best per image.
        clip: cut boxes at the border of the original image.
        by_objectness: proposals: one detection a cell, its score the objectness and its label 0, and suppression by
            plain IoU (Darknet's ``detector recall``).

    Returns:
        One ``Detections`` an image, by falling score. Boxes that are not finite (e^t overflows) are dropped.
    """
    if len(raws) != len(heads) or any(len(raw) != len(letterboxes) for raw in raws):
        shapes = [tuple(raw.shape) for raw in raws]
        raise ValueError(f"postprocess: raws {shapes} for {len(heads)} heads and {len(letterboxes)} letterboxes")
    found = [head.candidates(raw, score_threshold) for raw, head in zip(raws, heads, strict=True)]
    merged = Candidates(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    kind, beta = heads[-1].nms
    if by_objectness:
        merged, kind = merged._replace(class_probs=torch.ones_like(merged.objectness)[:, None]), "default"

    results = []
    for index, letterbox in enumerate(letterboxes):
        detections = _detections(merged, index, letterbox, score_threshold)
        # Darknet measures distances with image width = height = 1, which matters for the DIoU kinds.
        height, width = letterbox.original_size
        relative = detections.boxes / detections.boxes.new_tensor((width, height, width, height))
        scores, labels = detections.scores, detections.labels
        keep = nms(relative, scores, labels, nms_threshold, kind=kind, beta=beta, limit=max_detections)
        boxes = clip_boxes(detections.boxes[keep], letterbox.original_size) if clip else detections.boxes[keep]
        results.append(Detections(boxes, scores[keep], labels[keep]))
    return results


def _detections(candidates: Candidates, image: int, letterbox: Letterbox, threshold: float) -> Detections:
    """Every (box, class) of one image whose score exceeds ``threshold``, in original pixels, unsorted."""
    mine = candidates.image_index == image
    scores = candidates.objectness[mine, None] * candidates.class_probs[mine]  # (N, K)
    boxes = letterbox.undo(candidates.boxes[mine])
    finite = boxes.isfinite().all(-1, keepdim=True)
    row, label = ((scores > threshold) & finite).nonzero(as_tuple=True)
    return Detections(boxes[row], scores[row, label], label)
