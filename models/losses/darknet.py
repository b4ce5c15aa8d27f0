"""Darknet's YOLO loss: the deltas of its [yolo] layer, attached to the raw heads as a custom gradient.

Darknet computes no loss that one could differentiate. Its layer writes `delta`, an ascent direction, straight into
the output of the convolution before it, leaving out the sigmoid's slope and more (see `box_delta`). Here the same
delta becomes minus the gradient of the raw head, and the value of the loss is the cost Darknet prints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.heads.yolo import YoloHead
from models.losses.custom_gradient import HeadDelta
from models.losses.darknet_head import Deltas, HeadPass
from models.losses.result import Losses
from models.targets.darknet import Truth, learnable_truth
from utils.cfg.heads import Yolo
from utils.errors import UsageError
from utils.structures import Size, Targets


class DarknetLoss:
    """Darknet's training of [yolo] heads, by the keys of their sections.

    Args:
        heads: the network's heads in cfg order.
    """

    def __init__(self, heads: Sequence[YoloHead]) -> None:
        strangers = [head for head in heads if not isinstance(head, YoloHead)]
        if strangers or not heads:
            got = f"[{strangers[0].section.kind}]" if strangers else "no head"
            raise UsageError(
                f"training: the cfg has {got} (wanted [yolo] heads only); such a network can be run, not trained"
            )
        self.heads = tuple(heads)

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch.

        Args:
            raws: float32 (B, A*(5+K), GH, GW) for each head.
            targets: the truth in pixels of the network input, on any device.
        """
        if len(raws) != len(self.heads):
            raise ValueError(f"DarknetLoss: got {len(raws)} raw maps (wanted {len(self.heads)}, one for each head)")
        size = self.heads[0].input_size(raws[0])
        truth = learnable_truth(targets, raws[0].shape[0], size, self.heads[0].num_classes).to(raws[0].device)
        passes = [self._head(head, raw, truth, size) for head, raw in zip(self.heads, raws, strict=True)]
        total = torch.stack([surrogate for surrogate, _, _ in passes]).sum()
        box, objectness, classes = torch.stack([costs for _, costs, _ in passes]).sum(dim=0)
        iou = torch.cat([deltas.iou for _, _, deltas in passes])
        positives = torch.tensor(len(iou), device=iou.device)
        return Losses(total, box, objectness, classes, iou.sum() / max(len(iou), 1), positives)

    def _head(self, head: YoloHead, raw: Tensor, truth: Truth, size: Size) -> tuple[Tensor, Tensor, Deltas]:
        """One head's term of the total, its costs (3,) and its deltas."""
        with torch.no_grad():
            deltas = HeadPass(head, raw.detach(), truth, size).deltas()
            costs = _costs(head.section, deltas) / len(self.heads)
        scale = head.section.delta_normalizer
        term = HeadDelta.apply(raw, costs.sum(), deltas.objectness * scale, deltas.cells, deltas.rows * scale)
        return term, costs, deltas


def _costs(section: Yolo, deltas: Deltas) -> Tensor:
    """What Darknet prints for box, objectness and classes of a mini-batch: (3,).

    The squared length of the delta; but with an IoU loss (and ``show_details``) the boxes count with their mean
    1 - IoU or 1 - GIoU, and the rest is scaled by ``obj_normalizer``.
    """
    objectness = deltas.objectness.square().sum()
    classes = deltas.rows[:, 5:].square().sum()
    if section.iou_loss == "mse" or not section.show_details:
        return torch.stack((deltas.rows[:, :4].square().sum(), objectness, classes))
    measure = deltas.giou if section.iou_loss == "giou" else deltas.iou
    box = section.iou_normalizer * (1 - measure).sum() / max(len(measure), 1)
    return torch.stack((box, section.obj_normalizer * objectness, section.obj_normalizer * classes))
