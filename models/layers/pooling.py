"""Layers that change a map's height and width without parameters: pooling, upsampling, reorg, crop, blur."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.cfg.layers import Crop, LocalAvgpool, Maxpool, Reorg, Reorg3d, Upsample
from utils.structures import Size


class MaxpoolLayer(nn.Module):
    """[maxpool]: ``padding`` is the total of both sides, its smaller half on the left and the top."""

    def __init__(self, section: Maxpool) -> None:
        super().__init__()
        self.size, self.padding = section.size, section.padding
        strides = (section.stride_y, section.stride_x)
        self.strides = (1, 1) if section.antialiasing else strides
        self.blur = Blur(section.antialiasing, strides) if section.antialiasing else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, (H + padding - size) // stride + 1, ...)."""
        x = self._pool(x)
        return x if self.blur is None else self.blur(x)

    def _pool(self, x: Tensor) -> Tensor:
        before = self.padding // 2
        if self.padding % 2 == 0 and before <= self.size // 2:
            return F.max_pool2d(x, self.size, self.strides, before)
        after = [
            _missing(extent, self.size, stride, self.padding)
            for extent, stride in zip(x.shape[2:], self.strides, strict=True)
        ]
        if before or any(after):
            x = F.pad(x, (before, after[1], before, after[0]), value=-math.inf)
        return F.max_pool2d(x, self.size, self.strides)


def _missing(extent: int, size: int, stride: int, padding: int) -> int:
    """Pixels the last window lacks on the right: often none, although ``padding`` allows for some."""
    windows = (extent + padding - size) // stride + 1
    return max(0, (windows - 1) * stride + size - padding // 2 - extent)


class MaxpoolDepthLayer(nn.Module):
    """[maxpool] with ``maxpool_depth``: the maximum over channels g, g + n, g + 2n ... of ``n = out_channels``."""

    def __init__(self, section: Maxpool) -> None:
        super().__init__()
        self.out_channels = section.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H, W)."""
        return x.unflatten(1, (-1, self.out_channels)).amax(1)


class LocalAvgpoolLayer(nn.Module):
    """[local_avgpool]: the mean over the pixels of a window that lie in the image; windows as in [maxpool]."""

    def __init__(self, section: LocalAvgpool) -> None:
        super().__init__()
        self.size, self.padding = section.size, section.padding
        self.strides = (section.stride_y, section.stride_x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, (H + padding - size) // stride + 1, ...)."""
        before, after = self.padding // 2, self.padding - self.padding // 2
        if not self.padding:
            return F.avg_pool2d(x, self.size, self.strides)
        sides = (before, after, before, after)
        inside = F.pad(x.new_ones(1, 1, *x.shape[2:]), sides)
        total = F.avg_pool2d(F.pad(x, sides), self.size, self.strides, divisor_override=1)
        return total / F.avg_pool2d(inside, self.size, self.strides, divisor_override=1).clamp(min=1)


class AvgpoolLayer(nn.Module):
    """[avgpool]: the mean over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


class UpsampleLayer(nn.Module):
    """[upsample]: nearest neighbour times ``scale``; a negative stride is the reverse, sums of blocks."""

    def __init__(self, section: Upsample) -> None:
        super().__init__()
        self.stride, self.scale = section.stride, section.scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H * stride, W * stride)."""
        if self.stride < 0:
            x = F.avg_pool2d(x, -self.stride, divisor_override=1)
        else:
            x = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        return x if self.scale == 1 else x * self.scale


class Reorg3dLayer(nn.Module):
    """[reorg3d]: space to depth; output channel (y * stride + x) * C + c is pixel (y, x) of each block of channel c."""

    def __init__(self, section: Reorg3d) -> None:
        super().__init__()
        self.stride, self.reverse = section.stride, section.reverse

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C * stride^2, H / stride, W / stride), or the other way round."""
        stride = self.stride
        if self.reverse:
            blocks = x.unflatten(1, (stride, stride, -1)).permute(0, 3, 4, 1, 5, 2)  # B, c, i, y, j, x
            return blocks.flatten(4).flatten(2, 3)
        blocks = x.unflatten(3, (-1, stride)).unflatten(2, (-1, stride))  # B, c, i, y, j, x
        return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class ReorgLayer(nn.Module):
    """[reorg]: the permutation YOLOv2 was trained with. Darknet walks a map of C / s^2 channels, s times as high and
    wide as the input, over the input's memory; the result is not real space to depth.
    """

    def __init__(self, section: Reorg) -> None:
        super().__init__()
        self.stride = section.stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C * stride^2, H / stride, W / stride)."""
        stride = self.stride
        batch, channels, height, width = x.shape
        moved = x.reshape(batch, channels // stride**2, height, stride, width, stride).permute(0, 3, 5, 1, 2, 4)
        return moved.reshape(batch, channels * stride**2, height // stride, width // stride)


class CropLayer(nn.Module):
    """[crop]: a window of the image and values in [-1, 1]; central in evaluation, random and mirrored in training.

    As in Darknet's CPU code one window serves the whole batch; angle, saturation and exposure are left to the loader.
    """

    def __init__(self, section: Crop) -> None:
        super().__init__()
        self.size: Size = (section.crop_height, section.crop_width)
        self.flip, self.adjust = section.flip, not section.noadjust

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, crop_height, crop_width)."""
        spare = [extent - wanted for extent, wanted in zip(x.shape[2:], self.size, strict=True)]
        top, left = (int(torch.randint(n + 1, ())) if self.training else n // 2 for n in spare)
        x = x[:, :, top : top + self.size[0], left : left + self.size[1]]
        if self.training and self.flip and bool(torch.rand(()) < 0.5):
            x = x.flip(3)
        return x * 2 - 1 if self.adjust else x


class Blur(nn.Module):
    """The low-pass filter of ``antialiasing`` with the stride it protects (arXiv 1904.11486).

    Args:
        kind: 1 is [1 2 1] x [1 2 1] / 16 with padding 1; 2 is the mean of 2x2 pixels without padding.
        strides: (vertical, horizontal).
    """

    kernel: Tensor

    def __init__(self, kind: int, strides: tuple[int, int]) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4 if kind == 1 else torch.tensor([0.5, 0.5])
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)
        self.strides, self.padding = strides, 1 if kind == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        """Blur each channel of (B, C, H, W)."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(x, kernel, stride=self.strides, padding=self.padding, groups=channels)
