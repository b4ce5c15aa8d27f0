"""A convolution that keeps its weights as the CPU's library wants them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.ops.extension import get_ops

_DTYPES = (torch.float32, torch.bfloat16)


def _available() -> bool:
    """Whether this torch has oneDNN and the two functions Inductor's frozen networks are made of."""
    present = hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    return torch.backends.mkldnn.is_available() and present and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


AVAILABLE = _available()


class PackedConv2d(nn.Conv2d):
    """nn.Conv2d; in inference on a CPU its weights are put into oneDNN's order once, and not at every call.

    For one image that order costs YOLOv4 a tenth of its time. The results are those of nn.Conv2d. It happens when the
    weights are frozen (``requires_grad`` False), as ``Darknet.fuse`` leaves them, and takes their memory once more.
    """

    _packed: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, filters, H', W')."""
        if not self._packs(x):
            return super().forward(x)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(x, self._weight(x), self.bias, *geometry, "none", [], "")

    def _packs(self, x: Tensor) -> bool:
        weight = self.weight
        if weight.requires_grad or not (x.is_cpu and AVAILABLE) or x.dtype != weight.dtype or x.dtype not in _DTYPES:
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
            return False
        if get_ops() == "native" or not torch.backends.mkldnn.enabled or weight.is_inference():
            return False
        return x.numel() > 0 and not (x.requires_grad and torch.is_grad_enabled())

    def _weight(self, x: Tensor) -> Tensor:
        """The packed weights; packed again when they were written to or moved."""
        key = (self.weight._version, self.weight.data_ptr())
        if self._packed is None or self._packed[0] != key:
            geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
            weight = self.weight.detach().to_mkldnn()
            self._packed = (key, torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *geometry, list(x.shape)))
        return self._packed[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # copies and pickles pack for themselves
