"""Assisted excitation: early in a training, activations are raised where the objects are (arXiv 1906.05388)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from utils.structures import Size, Targets


class AssistedExcitation(nn.Module):
    """Add the mean over the channels to every channel, within the boxes of the truth; training only.

    What is added is a constant for the gradient, as in Darknet.

    Args:
        duration: 1 fades with the whole training, more over so many iterations.
    """

    def __init__(self, duration: int) -> None:
        super().__init__()
        self.duration = duration
        self.strength = 0.0
        self.targets: Targets | None = None
        self.size: Size = (1, 1)

    def begin(self, iteration: int, max_batches: int, targets: Targets | None, size: Size) -> None:
        """Set what the next pass knows of the training and of its images; without ``targets`` it excites nothing.

        Args:
            size: (H, W) of the network input, in whose pixels the targets are.
        """
        end = max_batches if self.duration == 1 else self.duration
        faded = self.duration > 1 and iteration > end
        self.strength = 0.0 if faded else 1 + math.cos(math.pi * iteration / max(1, end))
        self.targets, self.size = targets, size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of the same shape."""
        if self.targets is None or self.strength == 0:
            return x
        inside = covered(self.targets, self.size, (x.shape[0], *x.shape[2:])).to(x.device, x.dtype)
        return x + self.strength * inside[:, None] * x.detach().mean(1, keepdim=True)


def covered(targets: Targets, size: Size, shape: tuple[int, int, int]) -> Tensor:
    """Which cells of a map of ``shape`` (B, H, W) some box touches: bool (B, H, W).

    Args:
        targets: boxes in pixels of a network input of ``size`` (H, W); crowds do not count.
    """
    _, height, width = shape
    steps = targets.boxes.new_tensor((width / size[1], height / size[0]))
    low, high = (targets.boxes[:, :2] * steps).floor(), (targets.boxes[:, 2:] * steps).ceil()
    rows = torch.arange(height, device=low.device)
    columns = torch.arange(width, device=low.device)
    tall = (rows >= low[:, 1:]) & (rows < high[:, 1:])  # (T, H)
    wide = (columns >= low[:, :1]) & (columns < high[:, :1])  # (T, W)
    boxes = tall[:, :, None] & wide[:, None] & ~targets.crowd[:, None, None]
    count = torch.zeros(shape, dtype=torch.long, device=low.device)
    return count.index_add(0, targets.image_index, boxes.long()) > 0
