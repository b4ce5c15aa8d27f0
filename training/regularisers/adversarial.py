"""Self-adversarial training: the network alters its own images before it learns from them.

YOLOv4 (arXiv 2004.10934, section 3.3): "in the 1st forward backward stage the neural network alters the original image
instead of the network weights", to create the deception that there is no object; in the second stage it is trained on
that image with the true boxes. The deltas are Darknet's ``forward_yolo_layer`` with ``state.net.adversarial``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from models.darknet import Darknet
from models.heads.yolo import YoloHead
from utils.errors import UsageError
from utils.keyed_random import keyed_rng
from utils.structures import Size

_PURPOSE = 7  # second number of the key of the coin
_SHARE = 0.5  # of the mini-batches is altered
_SEEN = 0.25  # class probability times objectness above which a cell counts as showing an object


class SelfAdversary:
    """Alters half of the mini-batches once the warm-up is over, ever more strongly as the training goes on.

    Args:
        network: its cfg's ``adversarial_lr`` is the strength at the end of the training; 0 alters nothing.
        seed: of the run; which mini-batches are altered depends on it and on their numbers alone.

    Raises:
        UsageError: a head that is not [yolo].
    """

    def __init__(self, network: Darknet, *, seed: int = 0) -> None:
        self.network = network
        self.strength = network.config.net.adversarial_lr
        self.seed = seed
        if self.strength and not (network.heads and all(isinstance(head, YoloHead) for head in network.heads)):
            kinds = ", ".join(f"[{head.section.kind}]" for head in network.heads) or "no head"
            raise UsageError(
                f"{network.config.source}: adversarial_lr={self.strength:g} with {kinds} "
                "(wanted [yolo] heads only); leave it at 0"
            )

    def __call__(self, images: Tensor, iteration: int, part: int) -> Tensor:
        """The images to train on: ``images`` (B, 3, H, W) in [0, 1], or an altered copy.

        Args:
            iteration: optimiser steps done.
            part: number of the mini-batch in its step.
        """
        net = self.network.config.net
        if not self.strength or iteration <= net.burn_in:
            return images
        if keyed_rng(self.seed, _PURPOSE, iteration, part).random() >= _SHARE:
            return images
        return alter(self.network, images, self.strength * iteration / max(1, net.max_batches))


def alter(network: Darknet, images: Tensor, strength: float) -> Tensor:
    """``images`` moved by ``strength`` times the direction in which the network sees less in them.

    Darknet's step is the plain gradient, not its sign, of a loss that is summed over an image. Batch norm runs in
    inference mode; neither weights nor their gradients nor statistics change.
    """
    was_training = network.training
    network.eval()
    try:
        pixels = images.detach().requires_grad_()
        with torch.enable_grad():
            raws = network(pixels)
        heads = cast("tuple[YoloHead, ...]", network.heads)  # none others are let in
        deltas = [vanishing_delta(head, raw.detach()) for head, raw in zip(heads, raws, strict=True)]
        (ascent,) = torch.autograd.grad(raws, pixels, grad_outputs=deltas)
    finally:
        network.train(was_training)
    return (images + strength * ascent).clamp_(0, 1)


@torch.no_grad()
def vanishing_delta(head: YoloHead, raw: Tensor) -> Tensor:
    """The direction (B, A*E, GH, GW) in which ``raw`` would have to move to say that there is nothing.

    Objectness goes to 0. Where a class shows, that class goes to 0, the unlikely ones to 1 and the four box outputs
    to 0. Each prediction counts with the square root of its box's area, as a part of the image.
    """
    entries = head.grid(raw).movedim(2, -1)  # (B, A, GH, GW, E)
    outputs = head.activate_entries(entries)
    box, objectness, classes = outputs.tensor_split((4, 5), -1)
    section = head.section
    seen = classes * objectness
    shows = (seen > _SEEN).any(-1, keepdim=True)
    aim = torch.where(seen > _SEEN, 0.0, torch.where(seen < _SEEN, 1.0, classes))
    delta = torch.cat((shows * -box, -section.obj_normalizer * objectness, shows * (aim - classes)), -1)
    delta *= _side(head, box[..., 2:4], head.input_size(raw))
    return delta.movedim(-1, 2).reshape(raw.shape)


def _side(head: YoloHead, wh: Tensor, size: Size) -> Tensor:
    """Square root of the boxes' areas relative to the input of ``size`` (H, W): (B, A, GH, GW, 1)."""
    wh = 4 * wh.square() if head.section.new_coords else wh.exp()
    relative = wh * head.anchors[:, None, None] / wh.new_tensor((size[1], size[0]))
    return relative.prod(-1, keepdim=True).sqrt()
