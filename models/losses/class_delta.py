"""What Darknet's yolo layer writes to the class outputs of a positive: `delta_yolo_class`, for all cells at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from models.targets.darknet import Learners, Slots
from utils.cfg.heads import Region, Yolo


def class_multipliers(section: Yolo | Region, device: torch.device) -> Tensor:
    """(K,) weight of each class from ``counters_per_class``: rare ones weigh more, up to a [yolo]'s ``max_delta``."""
    if not section.counters_per_class:
        return torch.ones(section.classes, device=device)
    counts = torch.tensor(section.counters_per_class, dtype=torch.float32, device=device).clamp(min=1)
    return (counts.max() / counts).clamp(max=section.max_delta if isinstance(section, Yolo) else math.inf)


def class_delta(
    section: Yolo, probs: Tensor, labels: Tensor, learners: Learners, slots: Slots, multipliers: Tensor
) -> Tensor:
    """Delta of the class outputs where at least one box is learnt.

    The first box a place learns sets all its classes. Every later one only raises its own, which makes the place
    multi-label. ``cls_normalizer`` acts on the first box's class alone, and only with ``counters_per_class``.

    Args:
        probs: (U, K) class probabilities at the slots.
        labels: (P,) the class each learner learns.
        multipliers: (K,) from `class_multipliers`.

    Returns:
        (U, K).
    """
    first = labels[slots.first]  # (U,)
    own = one_hot(first, section.classes).bool()
    delta = _focal_delta(probs, own, first) if section.focal_loss else _plain_delta(section, probs, own, multipliers)
    if section.objectness_smooth:
        # a place that learns by overlap aims its own class at the squared IoU, without smoothing or normaliser
        aim = learners.overlap[slots.first].square()[:, None]
        by_overlap = learners.by_overlap[slots.first][:, None]
        delta = torch.where(own & by_overlap, multipliers * (aim - probs), delta)
    again = slots.first[slots.index] != torch.arange(len(labels), device=probs.device)
    raised = torch.zeros_like(own)
    raised[slots.index[again], labels[again]] = True
    return torch.where(raised, multipliers * (_aim(section, 1.0) - probs), delta)


def _plain_delta(section: Yolo, probs: Tensor, own: Tensor, multipliers: Tensor) -> Tensor:
    delta = torch.where(own, _aim(section, 1.0), _aim(section, 0.0)) - probs
    if not section.counters_per_class:
        return delta
    return torch.where(own, delta * multipliers * section.cls_normalizer, delta)


def _focal_delta(probs: Tensor, own: Tensor, label: Tensor) -> Tensor:
    """Focal loss (arXiv 1708.02002) with gamma 2 and alpha 0.5; Darknet scales all classes by the true one's slope."""
    return 0.5 * focal_slope(probs.gather(1, label[:, None])) * (own.to(probs.dtype) - probs)


def focal_slope(p_true: Tensor) -> Tensor:
    """How much a class still learns that has probability ``p_true``, by Darknet's formula for gamma 2."""
    p_true = p_true + 1e-15
    return -(1 - p_true) * (2 * p_true * p_true.log() + p_true - 1)


def _aim(section: Yolo, value: float) -> float:
    """The probability to aim at for a class that is there (1) or not (0), after label smoothing."""
    return value * (1 - section.label_smooth_eps) + section.label_smooth_eps / 2
