"""Layers that keep the shape: dropout, DropBlock, activation, local response normalisation, softmax, nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.activations import activate
from utils.cfg.layers import Activation, Dropout, Normalization, Softmax

DROPBLOCK_SIDE = 7  # where the cfg gives none
DROPBLOCK_RAMP = 0.85  # part of the training over which DropBlock grows to its full strength


class DropoutLayer(nn.Module):
    """[dropout]. Darknet drops in the previous layer's memory, so whoever reads that layer sees the dropped values."""

    overwrites_previous = True

    def __init__(self, section: Dropout) -> None:
        super().__init__()
        self.probability = section.probability

    def forward(self, x: Tensor) -> Tensor:
        """Zero values with ``probability`` and scale up the others; nothing in evaluation."""
        return F.dropout(x, self.probability, self.training)


class DropBlockLayer(nn.Module):
    """[dropout] with ``dropblock=1``: at most one square a channel is zeroed (after arXiv 1810.12890).

    Attributes:
        progress: part of the training that is over, set by the network; block and probability grow with it.
    """

    overwrites_previous = True

    def __init__(self, section: Dropout) -> None:
        super().__init__()
        self.section = section
        self.progress = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Zero blocks of (B, C, H, W) and scale each image up by what it lost; nothing in evaluation."""
        ramp = min(1.0, self.progress / DROPBLOCK_RAMP)
        if not self.training or ramp == 0:
            return x
        batch, channels, height, width = x.shape
        block_height, block_width = self._block(height, width, ramp)
        trigger = self.section.probability * ramp / (block_height * block_width)
        lowest, position = torch.rand(batch, channels, height * width, device=x.device).min(-1)
        top = (position // width).clamp(max=height - block_height)[..., None]  # moved to fit into the map
        left = (position % width).clamp(max=width - block_width)[..., None]
        rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        in_rows = (rows >= top) & (rows < top + block_height) & (lowest < trigger)[..., None]  # (B, C, H)
        in_columns = (columns >= left) & (columns < left + block_width)  # (B, C, W)
        keep = ~(in_rows[..., None] & in_columns[..., None, :])
        kept = keep.flatten(1).float().mean(1).clamp(min=1 / keep[0].numel())
        return x * keep / kept[:, None, None, None].to(x.dtype)

    def _block(self, height: int, width: int, ramp: float) -> tuple[int, int]:
        """Height and width of the block, between 1 and the map's."""
        relative = self.section.dropblock_size_rel
        side = self.section.dropblock_size_abs or DROPBLOCK_SIDE
        sides = (relative * height, relative * width) if relative else (side, side)
        rows, columns = (min(max(1, int(s * ramp)), extent) for s, extent in zip(sides, (height, width), strict=True))
        return rows, columns


class ActivationLayer(nn.Module):
    """[activation] on its own."""

    def __init__(self, section: Activation) -> None:
        super().__init__()
        self.activation = section.activation

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return activate(x, self.activation)


class NormalizationLayer(nn.Module):
    """[normalization]: x / (kappa + alpha * sum of squares over ``size`` neighbouring channels) ^ beta."""

    def __init__(self, section: Normalization) -> None:
        super().__init__()
        self.section = section

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W); unlike PyTorch's, Darknet's alpha is not divided by the size of the window."""
        section = self.section
        return F.local_response_norm(x, section.size, section.alpha * section.size, section.beta, section.kappa)


class SoftmaxLayer(nn.Module):
    """[softmax] over the whole image, over each of its ``groups``, or (``spatial``) over the channels of each cell."""

    def __init__(self, section: Softmax) -> None:
        super().__init__()
        self.section = section

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), probabilities of the same shape."""
        grouped = (x if self.section.spatial else x.flatten(1)).unflatten(1, (self.section.groups, -1))
        return (grouped / self.section.temperature).softmax(2).reshape(x.shape)


class PassLayer(nn.Module):
    """[cost], [contrastive]: they only tell how to train, and hand on what they get."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x
