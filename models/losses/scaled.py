"""The loss of Scaled-YOLOv4: more anchors learn each box, by CIoU, and objectness learns how well they fit.

Unlike Darknet's deltas this is a function with its true gradient. It computes in float32 whatever the network does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.heads.yolo import YoloHead
from models.losses.class_delta import class_multipliers
from models.losses.result import Losses
from models.targets.by_shape import Matches, assign_by_shape
from models.targets.darknet import Cells, Truth, crowd_coverage, learnable_truth, places
from utils import boxes as box_ops
from utils.errors import UsageError
from utils.structures import Size, Targets

# The weights of the parts, as the authors found them on COCO for the sum over batches of 64; here it is the mean.
BOX, OBJECTNESS = 64 * 0.05, 64 * 1.0
CLASS = 64 * 0.5 / 80  # of each class: the 0.5 is for the mean over COCO's 80
_BALANCE = (4.0, 1.0, 0.4, 0.1)  # of the heads' objectness, finest first: its mean is over four times the cells
_LEAST_PROBABILITY = 1e-4  # where a network puts out probabilities: the logarithm stays finite, also in fp16
_LARGEST_EXPONENT = 20.0  # of e^t, and below its negative: sizes would overflow, or lose their gradient
_LEAST_SIGMOID = 1e-4  # of (2 s)^2, for the same reason


class ScaledLoss:
    """Scaled-YOLOv4's training of [yolo] heads (arXiv 2011.08036) with the CIoU loss (arXiv 1911.08287).

    Of a head's section it takes ``scale_x_y``, ``new_coords``, ``label_smooth_eps``, ``counters_per_class`` (as the
    weight of the positives of each class, at most ``max_delta``) and ``ignore_thresh`` (for crowds).

    Args:
        heads: the network's heads in cfg order.
    """

    def __init__(self, heads: Sequence[YoloHead]) -> None:
        strangers = [head for head in heads if not isinstance(head, YoloHead)]
        if strangers or not heads:
            got = f"[{strangers[0].section.kind}]" if strangers else "no head"
            raise UsageError(f"--loss scaled, simota: the cfg has {got} (wanted [yolo] heads only); use --loss darknet")
        self.heads = tuple(heads)
        self._share = 3 / len(heads)  # the weights are meant for three heads
        finest_first = sorted(head.stride for head in heads)
        ranks = [min(finest_first.index(head.stride), len(_BALANCE) - 1) for head in heads]
        self._balance = [self._share * _BALANCE[rank] for rank in ranks]

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch: its mean, as the paper has it, times its images.

        A training step divides the sum over its mini-batches by its images. So the gradient has the same size
        whatever the batch and however many parts it is computed in, and one learning rate fits all.

        Args:
            raws: (B, A*(5+K), GH, GW) for each head, in any precision.
            targets: the truth in pixels of the network input, on any device.
        """
        if len(raws) != len(self.heads):
            raise ValueError(f"ScaledLoss: got {len(raws)} raw maps (wanted {len(self.heads)}, one for each head)")
        raws = [raw if raw.dtype == torch.float64 else raw.float() for raw in raws]
        size = self.heads[0].input_size(raws[0])
        images = raws[0].shape[0]
        truth = learnable_truth(targets, images, size, self.heads[0].num_classes).to(raws[0].device)
        matches = self.assign(raws, truth, size)
        found = [self._head(place, raw, truth, matches[place], size) for place, raw in enumerate(raws)]
        parts, ious = zip(*found, strict=True)
        box, objectness, classes = images * torch.stack(parts).sum(dim=0)
        iou = torch.cat(ious)
        return Losses(
            total=box + objectness + classes,
            box=box.detach(),
            objectness=objectness.detach(),
            classes=classes.detach(),
            mean_iou=iou.sum() / max(len(iou), 1),
            positives=torch.tensor(len(iou), device=iou.device),
        )

    def assign(self, raws: Sequence[Tensor], truth: Truth, size: Size) -> list[Matches]:
        """The predictions of each head that learn a box."""
        return [
            assign_by_shape(head, truth, (raw.shape[2], raw.shape[3]), size)
            for head, raw in zip(self.heads, raws, strict=True)
        ]

    def _head(self, place: int, raw: Tensor, truth: Truth, matches: Matches, size: Size) -> tuple[Tensor, Tensor]:
        """One head's box, objectness and classes (3,), means over what takes part; the IoU (P,) of its positives."""
        head, (cells, index) = self.heads[place], matches
        grid = head.grid(raw)  # (B, A, 5+K, GH, GW)
        entries = bounded(head, grid[cells.image, cells.anchor, :, cells.row, cells.column])  # (P, 5+K)
        predicted = head.decode_cells(entries, cells.anchor, cells.row, cells.column).boxes
        actual = truth_boxes(truth, size)[index].to(predicted.dtype)
        count = max(len(index), 1)
        box = (1 - box_ops.ciou(predicted, actual)).sum() / count
        iou = box_ops.iou(predicted.detach(), actual)
        objectness = cross_entropy(head, grid[:, :, 4], best_fit(cells, iou, grid[:, :, 4].shape))
        objectness = (objectness * ~excused(head, raw.detach(), cells, truth, size)).mean()
        classes = class_loss(head, entries[:, 5:], truth.labels[index]).sum() / count
        weights = (BOX * self._share, OBJECTNESS * self._balance[place], CLASS * self._share)
        return torch.stack((box, objectness, classes)) * raw.new_tensor(weights), iou


def bounded(head: YoloHead, entries: Tensor) -> Tensor:
    """Raw entries (P, 5+K) with sizes that neither overflow nor vanish."""
    low, high = (_LEAST_SIGMOID, 1.0) if head.section.new_coords else (-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    xy, wh, scores = entries.tensor_split((2, 4), dim=1)
    return torch.cat((xy, wh.clamp(low, high), scores), dim=1)


def truth_boxes(truth: Truth, size: Size) -> Tensor:
    """The boxes (T, 4) xyxy in pixels of the network input of ``size`` (H, W)."""
    boxes = box_ops.cxcywh_to_xyxy(truth.boxes_cxcywhn)
    return boxes * boxes.new_tensor((size[1], size[0], size[1], size[0]))


def best_fit(cells: Cells, iou: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What the objectness (B, A, GH, GW) aims at: the IoU (P,) of each positive, the best of those in one place."""
    aims = iou.new_zeros(shape)
    aims.view(-1).scatter_reduce_(0, places(cells, shape), iou.clamp(min=0), "amax")
    return aims


def class_loss(head: YoloHead, outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the classes (P, K) of positives that should be ``labels`` (P,)."""
    smoothing = head.section.label_smooth_eps
    aims = F.one_hot(labels, head.num_classes) * (1 - smoothing) + smoothing / 2
    return cross_entropy(head, outputs, aims, class_multipliers(head.section, outputs.device))


def cross_entropy(head: YoloHead, outputs: Tensor, aims: Tensor, positive_weight: Tensor | float = 1.0) -> Tensor:
    """Binary cross-entropy, elementwise, of what the network puts out: logits, or with ``new_coords`` probabilities."""
    if head.section.new_coords:
        # the gradient is that at the bound: one of zero would leave saturated outputs as wrong as they are
        within = outputs.detach().clamp(_LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        outputs = within + (outputs - outputs.detach())
        log_yes, log_no = outputs.log(), torch.log1p(-outputs)
    else:
        log_yes, log_no = F.logsigmoid(outputs), F.logsigmoid(-outputs)
    return -(positive_weight * aims * log_yes + (1 - aims) * log_no)


def excused(head: YoloHead, raw: Tensor, cells: Cells, truth: Truth, size: Size) -> Tensor:
    """bool (B, A, GH, GW): predictions inside a crowd that learn nothing else; neither object nor background."""
    shape = (len(raw), head.num_anchors, *raw.shape[2:])
    inside = torch.zeros(shape, dtype=torch.bool, device=raw.device)
    image = (truth.crowds != 0).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(image):
        boxes = head.decode(raw[image]).boxes  # (images with crowds, N, 4)
        boxes = boxes / boxes.new_tensor((size[1], size[0], size[1], size[0]))
        coverage = crowd_coverage(image.repeat_interleave(boxes.shape[1]), boxes.flatten(0, 1), truth)
        inside[image] = (coverage > head.section.ignore_thresh).view(-1, *shape[1:])
    inside[cells] = False
    return inside
