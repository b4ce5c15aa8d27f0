"""What Darknet's region layer writes to class outputs: `delta_region_class`, for all cells at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from models.heads.class_tree import ClassTree
from models.losses.class_delta import focal_slope
from models.targets.darknet import Slots


def class_delta(probs: Tensor, labels: Tensor, weights: Tensor, *, focal: bool) -> Tensor:
    """Minus the gradient of cross-entropy at the logits, of a softmax or of sigmoids: (U, K).

    Args:
        probs: (U, K).
        labels, weights: (U,).
        focal: as in [yolo], the focal loss with all classes scaled by the true one's slope.
    """
    delta = weights[:, None] * (one_hot(labels, probs.shape[1]).to(probs.dtype) - probs)
    return 0.5 * focal_slope(probs.gather(1, labels[:, None])) * delta if focal else delta


def tree_class_delta(tree: ClassTree, probs: Tensor, labels: Tensor, weights: Tensor, slots: Slots) -> Tensor:
    """The same for classes in a tree: a class and all its ancestors learn, each against its brothers (U, K).

    Where several boxes fall to one prediction, a group of brothers learns from the last box that has one of them.

    Args:
        probs: (U, K), of each class among its brothers.
        labels, weights: (P,) of each learner.
    """
    paths = tree.paths[labels]  # (P, D)
    learner, depth = (paths >= 0).nonzero(as_tuple=True)
    node = paths[learner, depth]
    slot, group = slots.index[learner], tree.groups[node]
    shape = (len(probs), int(tree.groups[-1]) + 1)
    place = slot * shape[1] + group
    last = learner.new_full((shape[0] * shape[1],), -1).scatter_reduce(0, place, learner, "amax")
    decides = last[place] == learner
    chosen = torch.full_like(last, -1).scatter(0, place[decides], node[decides]).view(shape)[:, tree.groups]  # (U, K)
    weight = weights[last.view(shape)[:, tree.groups].clamp(min=0)]
    own = chosen == torch.arange(len(tree), device=probs.device)
    return torch.where(chosen >= 0, weight * (own.to(probs.dtype) - probs), 0)
