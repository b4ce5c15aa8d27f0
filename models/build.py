"""From a planned layer to its module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from torch import nn

from models.graph import absolute
from models.heads.gaussian import GaussianYoloHead
from models.heads.region import RegionHead
from models.heads.yolo import YoloHead
from models.layers.merging import RouteLayer, SamLayer, ScaleChannelsLayer, ShortcutLayer
from models.layers.parametric import BatchnormLayer, ConnectedLayer, ConvolutionalLayer, ImplicitLayer
from models.layers.pointwise import (
    ActivationLayer,
    DropBlockLayer,
    DropoutLayer,
    NormalizationLayer,
    PassLayer,
    SoftmaxLayer,
)
from models.layers.pooling import (
    AvgpoolLayer,
    CropLayer,
    LocalAvgpoolLayer,
    MaxpoolDepthLayer,
    MaxpoolLayer,
    Reorg3dLayer,
    ReorgLayer,
    UpsampleLayer,
)
from models.shapes import Node
from utils.cfg import heads, layers
from utils.structures import Size

Builder = Callable[[Node, Sequence[nn.Module], Size, str], nn.Module]


def build_layer(node: Node, earlier: Sequence[nn.Module], size: Size, source: str) -> nn.Module:
    """Make the module of one layer.

    Args:
        node: the layer's place in the plan.
        earlier: the modules before it, whose parameters it may share.
        size: (H, W) of the network input.
        source: the cfg file, near which a layer finds the files its section names.
    """
    return _BUILDERS[type(node.section)](node, earlier, size, source)


def _from_section(module: type[nn.Module]) -> Builder:
    return lambda node, *_: module(node.section)


def _from_node(module: type[nn.Module]) -> Builder:
    return lambda node, *_: module(node)


def _convolutional(node: Node, earlier: Sequence[nn.Module], *_) -> ConvolutionalLayer:
    shared = node.section.share_index
    other = None if shared is None else earlier[absolute(node.index, shared)]
    return ConvolutionalLayer(node, cast("ConvolutionalLayer | None", other))


def _maxpool(node: Node, *_) -> nn.Module:
    return (MaxpoolDepthLayer if node.section.maxpool_depth else MaxpoolLayer)(node.section)


def _dropout(node: Node, *_) -> nn.Module:
    return (DropBlockLayer if node.section.dropblock else DropoutLayer)(node.section)


def _yolo(module: type[YoloHead] | type[GaussianYoloHead]) -> Builder:
    def build(node: Node, earlier: Sequence[nn.Module], size: Size, *_) -> nn.Module:
        section = node.section
        return module(section, section.anchors, section.mask, stride=_stride(node, size), index=node.index)

    return build


def _region(node: Node, earlier: Sequence[nn.Module], size: Size, source: str) -> RegionHead:
    vertical, horizontal = stride = _stride(node, size)
    anchors = [(width * horizontal, height * vertical) for width, height in node.section.anchors]  # from cells
    mask = tuple(range(node.section.num))
    return RegionHead(node.section, anchors, mask, stride=stride, index=node.index, source=source)


def _stride(node: Node, size: Size) -> tuple[float, float]:
    """Input pixels per cell, whole numbers where the input is a multiple of the grid."""
    vertical, horizontal = (extent / cells for extent, cells in zip(size, node.inputs[1:], strict=True))
    return (
        int(vertical) if vertical.is_integer() else vertical,
        int(horizontal) if horizontal.is_integer() else horizontal,
    )


_BUILDERS: dict[type, Builder] = {
    layers.Convolutional: _convolutional,
    layers.Connected: _from_node(ConnectedLayer),
    layers.Batchnorm: _from_node(BatchnormLayer),
    layers.Implicit: _from_node(ImplicitLayer),
    layers.Maxpool: _maxpool,
    layers.LocalAvgpool: _from_section(LocalAvgpoolLayer),
    layers.Avgpool: lambda *_: AvgpoolLayer(),
    layers.Upsample: _from_section(UpsampleLayer),
    layers.Reorg: _from_section(ReorgLayer),
    layers.Reorg3d: _from_section(Reorg3dLayer),
    layers.Crop: _from_section(CropLayer),
    layers.Route: _from_section(RouteLayer),
    layers.Shortcut: _from_node(ShortcutLayer),
    layers.ScaleChannels: _from_section(ScaleChannelsLayer),
    layers.Sam: _from_section(SamLayer),
    layers.Dropout: _dropout,
    layers.Activation: _from_section(ActivationLayer),
    layers.Normalization: _from_section(NormalizationLayer),
    layers.Softmax: _from_section(SoftmaxLayer),
    layers.Cost: lambda *_: PassLayer(),
    heads.Contrastive: lambda *_: PassLayer(),
    heads.Yolo: _yolo(YoloHead),
    heads.GaussianYolo: _yolo(GaussianYoloHead),
    heads.Region: _region,
}
