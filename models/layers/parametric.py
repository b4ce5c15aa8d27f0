"""Layers with learned parameters: convolutional, connected, batchnorm, implicit.

State dict keys are plain (``layers.0.conv.weight``, ``layers.0.bn.running_mean``). ``darknet_parameters`` names the
same tensors in the order of a .weights file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.layers.activations import activate_
from models.layers.batch_norm import batch_norm
from models.layers.excitation import AssistedExcitation
from models.layers.pooling import Blur
from models.ops import PackedConv2d, batch_norm_act, bias_act, native
from models.shapes import Node, Shape
from utils.cfg.layers import Connected, Convolutional, Implicit

NamedTensors = Iterator[tuple[str, Tensor]]


def normalize_and_activate(x: Tensor, bn: nn.BatchNorm2d | None, activation: str) -> Tensor:
    """The tail of a layer: batch norm, where there is one, and the activation; ``x`` may be overwritten."""
    if activation in native.ACTIVATIONS:
        return bias_act(x, None, activation, inplace=True) if bn is None else batch_norm_act(x, bn, activation)
    return activate_(x if bn is None else bn(x), activation)


def _statistics(bn: nn.BatchNorm2d) -> NamedTensors:
    """What a .weights file holds of a batch norm besides its bias, in order."""
    yield "bn scale", bn.weight
    assert bn.running_mean is not None and bn.running_var is not None
    yield "bn mean", bn.running_mean
    yield "bn variance", bn.running_var


class DarknetConv2d(PackedConv2d):
    """A convolution that starts as Darknet's: U(-1, 1) * sqrt(2 / fan_in), bias 0."""

    def reset_parameters(self) -> None:
        """Draw the weights from torch's global generator."""
        bound = math.sqrt(2 / math.prod(self.weight.shape[1:]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BinaryConv2d(DarknetConv2d):
    """XNOR convolution (arXiv 1603.05279): signs of the input, and per filter mean(|w|) * sign(w) for weights.

    The gradient passes straight through to the float weights and the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve signs with binarised weights."""
        scale = self.weight.abs().mean((1, 2, 3), keepdim=True)
        weight = straight_through(torch.where(self.weight > 0, scale, -scale), self.weight)
        signs = straight_through((x > 0).to(x.dtype) * 2 - 1, x)
        return self._conv_forward(signs, weight, self.bias)


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """``value`` forward; backward its gradient goes to ``source`` as if they were the same."""
    return value.detach() + (source - source.detach())


class ConvolutionalLayer(nn.Module):
    """[convolutional]: convolution, batch norm or bias, activation, excitation, and the blur of ``antialiasing``.

    Args:
        node: the place in the graph.
        shared: the layer whose parameters this one uses too (``share_index``).
    """

    def __init__(self, node: Node, shared: ConvolutionalLayer | None = None) -> None:
        super().__init__()
        section: Convolutional = node.section
        self.activation = section.activation
        self.shared = shared is not None
        strides = (section.stride_y, section.stride_x)
        normalized = section.batch_normalize and shared is None
        self.conv = (BinaryConv2d if section.xnor else DarknetConv2d)(
            node.inputs[0],
            section.filters,
            section.size,
            stride=(1, 1) if section.antialiasing else strides,
            padding=section.padding * section.dilation,
            dilation=section.dilation,
            groups=section.groups,
            bias=not section.batch_normalize,
            device="meta" if shared else None,
        )
        self.bn = batch_norm(section.filters, cross_mini_batch=section.batch_normalize == 2) if normalized else None
        if shared is not None:
            self.conv.weight, self.conv.bias, self.bn = shared.conv.weight, shared.conv.bias, shared.bn
        self.excitation = AssistedExcitation(section.assisted_excitation) if section.assisted_excitation else None
        self.blur = Blur(section.antialiasing, strides) if section.antialiasing else None

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, filters, H', W'); ``added`` is a shortcut's source, where the layer is fused with it."""
        if self.bn is None and self.activation in native.ACTIVATIONS:
            x = self.conv.activated(x, self.activation, added)
        else:
            x = normalize_and_activate(self.conv(x), self.bn, self.activation)
        if self.training and self.excitation is not None:
            x = self.excitation(x)
        return x if self.blur is None else self.blur(x)

    @property
    def takes_shortcut(self) -> bool:
        """Whether ``forward`` can add what a shortcut behind it would."""
        ends = self.blur is None and self.excitation is None
        return ends and self.bn is None and self.activation in native.ACTIVATIONS

    def darknet_parameters(self) -> NamedTensors:
        """Bias, batch norm, weights; nothing where another layer stores them."""
        if self.shared:
            return
        bias = self.conv.bias if self.bn is None else self.bn.bias
        assert bias is not None
        yield "bias", bias
        if self.bn is not None:
            yield from _statistics(self.bn)
        yield "weights", self.conv.weight

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the batch norm into weights and bias, in float64 as Darknet does; in place.

        Layers that share parameters part here: each folds its own copy.
        """
        bn, conv = self.bn, self.conv
        if bn is None or isinstance(conv, BinaryConv2d):  # binarising scaled weights would lose the scale
            return
        assert bn.running_mean is not None and bn.running_var is not None
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        bias = bn.bias.double() - bn.running_mean.double() * scale
        weight = conv.weight.double() * scale[:, None, None, None]
        conv.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
        conv.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
        self.bn = None


class ConnectedLayer(nn.Module):
    """[connected]: every output sees the whole input, flattened channel by channel."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        section: Connected = node.section
        self.activation = section.activation
        inputs = math.prod(node.inputs)
        self.linear = nn.utils.skip_init(
            nn.Linear, inputs, section.output, bias=not section.batch_normalize, device=torch.get_default_device()
        )
        self.bn = batch_norm(section.output) if section.batch_normalize else None
        bound = math.sqrt(2 / inputs)
        nn.init.uniform_(self.linear.weight, -bound, bound)
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, output, 1, 1)."""
        x = self.linear(x.flatten(1))[:, :, None, None]
        return normalize_and_activate(x, self.bn, self.activation)

    def darknet_parameters(self) -> NamedTensors:
        """Bias, weights, batch norm: another order than the convolution's."""
        yield "bias", self.linear.bias if self.bn is None else self.bn.bias
        yield "weights", self.linear.weight
        if self.bn is not None:
            yield from _statistics(self.bn)


class BatchnormLayer(nn.Module):
    """[batchnorm] on its own."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.bn = batch_norm(node.inputs[0])

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return self.bn(x)

    def darknet_parameters(self) -> NamedTensors:
        """Bias, scale, mean, variance."""
        yield "bias", self.bn.bias
        yield from _statistics(self.bn)


class ImplicitLayer(nn.Module):
    """[implicit]: a learned constant, the same for every image (YOLOR, arXiv 2105.04206)."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        section: Implicit = node.section
        self.shape: Shape = node.outputs
        self.weight = nn.Parameter(torch.empty(section.filters * section.atoms).normal_(section.mean, section.std))

    def forward(self, x: Tensor) -> Tensor:
        """The constant for as many images as ``x`` has: (B, filters, atoms, 1)."""
        return self.weight.to(x.dtype).view(1, *self.shape).expand(x.shape[0], *self.shape)

    def darknet_parameters(self) -> NamedTensors:
        """The constant."""
        yield "weights", self.weight
