"""A convolution that keeps its weights as the CPU's kernels want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.ops import native
from models.ops.batch_norm_act import bias_act
from models.ops.extension import get_ops, has_conv_act
from models.ops.registration import ops

_DTYPES = (torch.float32, torch.bfloat16)
_LARGEST_KERNEL = 8  # of conv_act


def _available() -> bool:
    """Whether this torch has oneDNN and the two functions Inductor's frozen networks are made of."""
    present = hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    return torch.backends.mkldnn.is_available() and present and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


AVAILABLE = _available()


class PackedConv2d(nn.Conv2d):
    """nn.Conv2d; in inference on a CPU its weights are put into the kernels' order once, and not at every call.

    For one image that order costs YOLOv4 a tenth of its time. The results are those of nn.Conv2d. It happens when the
    weights are frozen (``requires_grad`` False), as ``Darknet.fuse`` leaves them, and takes their memory once more.
    """

    _packed: tuple[object, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._joinable = self._is_plain_square()
        self.register_buffer("prepared_weight", None, persistent=False)
        self.register_buffer("prepared_bias", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, filters, H', W')."""
        if not self._packs(x):
            return super().forward(x)
        weight = self._kept("oneDNN", lambda: self._for_onednn(x))
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *geometry, "none", [], "")

    def activated(self, x: Tensor, activation: str, added: Tensor | None = None) -> Tensor:
        """``activation(conv(x)) + added``: one operator in bf16 on a processor with AMX.

        Args:
            activation: one of ``ACTIVATIONS``.
            added: (B, filters, H', W') or None.
        """
        if self.prepared_weight is not None and native.compiles():
            weight, bias = self.prepared_weight, self.prepared_bias
        elif self._joins(x) and self._packs(x):
            weight, bias = self._kept("conv_act", self._for_conv_act)
        else:
            y = bias_act(self(x), None, activation, inplace=True)
            return y if added is None else y + added
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (self.out_channels, self.kernel_size[0], self.stride[0], self.padding[0])
        return ops.conv_act(x, weight, bias, added, *geometry, native.ACTIVATIONS[activation])

    def prepare(self) -> None:
        """Before compilation: where conv_act computes this convolution, keep what it wants as constants."""
        if self._joins(self.weight) and not self.weight.requires_grad:
            self.prepared_weight, self.prepared_bias = self._for_conv_act()

    def _joins(self, x: Tensor) -> bool:
        """Whether conv_act computes this convolution of tensors like ``x``."""
        if x.dtype != torch.bfloat16 or not x.is_cpu or type(self).forward is not PackedConv2d.forward:
            return False
        return self._joinable and min(x.shape[2:]) + 2 * self.padding[0] >= self.kernel_size[0] and has_conv_act()  # type: ignore[operator]

    def _is_plain_square(self) -> bool:
        """Whether conv_act knows this geometry."""
        geometry = (self.kernel_size, self.stride, self.padding)
        if isinstance(self.padding, str) or any(height != width for height, width in geometry):  # type: ignore[str-unpack]
            return False
        fits = self.padding[0] < self.kernel_size[0] <= _LARGEST_KERNEL
        return fits and self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"

    def _packs(self, x: Tensor) -> bool:
        weight = self.weight
        if weight.requires_grad or not (x.is_cpu and AVAILABLE) or x.dtype != weight.dtype or x.dtype not in _DTYPES:
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
            return False
        if get_ops() == "native" or not torch.backends.mkldnn.enabled or weight.is_inference():
            return False
        return x.numel() > 0 and not (x.requires_grad and torch.is_grad_enabled())

    def _kept(self, order: str, make: Callable[[], Any]) -> Any:
        """What ``make`` gave for the kernels of ``order``; made again when weights or bias were written to or moved."""
        tensors = [tensor for tensor in (self.weight, self.bias) if tensor is not None]
        key = (order, [(tensor._version, tensor.data_ptr()) for tensor in tensors])
        if self._packed is None or self._packed[0] != key:
            self._packed = (key, make())
        return self._packed[1]

    def _for_onednn(self, x: Tensor) -> Tensor:
        geometry = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        weight = self.weight.detach().to_mkldnn()
        return torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *geometry, list(x.shape))  # type: ignore[call-arg]

    def _for_conv_act(self) -> tuple[Tensor, Tensor | None]:
        return ops.conv_pack(self.weight), None if self.bias is None else self.bias.float()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # copies and pickles pack for themselves
