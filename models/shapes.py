"""The shape, parameters and cost of each kind of layer, from its section and what it reads."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from utils.cfg.heads import Region, Yolo
from utils.cfg.layers import (
    Avgpool,
    Batchnorm,
    Connected,
    Convolutional,
    Crop,
    Implicit,
    LocalAvgpool,
    Maxpool,
    Reorg,
    Reorg3d,
    Route,
    Sam,
    ScaleChannels,
    Section,
    Shortcut,
    Softmax,
    Upsample,
)
from utils.structures import Size

Shape = tuple[int, int, int]  # channels, height, width
Arrays = tuple[tuple[str, int], ...]  # name and length of what a .weights file holds, in its order


@dataclass(frozen=True)
class Node:
    """One layer of the plan.

    Attributes:
        index: position in the cfg.
        section: what the cfg says.
        inputs: shape of the previous layer's output (of the image, for the first).
        sources: indices of the earlier layers the section names; a route reads these only.
        source_shapes: their shapes.
        outputs: shape of this layer's output.
        arrays: what the .weights file holds for it, float32 values.
        operations: multiplications and additions for one image.
    """

    index: int
    section: Any  # a Section; who reads its keys knows which
    inputs: Shape
    sources: tuple[int, ...]
    source_shapes: tuple[Shape, ...]
    outputs: Shape = (0, 0, 0)
    arrays: Arrays = ()
    operations: int = 0

    @property
    def parameters(self) -> int:
        """Values the .weights file holds for it."""
        return sum(length for _, length in self.arrays)


@dataclass(frozen=True)
class Measure:
    """What a rule below finds out about a layer."""

    outputs: Shape
    arrays: Arrays = ()
    operations: int = 0


class MisfitError(ValueError):
    """What is wrong with a section; ``plan`` adds the file and the line."""


class UnevenError(MisfitError):
    """Heights and widths that do not go together, as they may not for an odd input size."""


# One rule for each kind of section.


@functools.singledispatch
def measure(section: Section, node: Node) -> Measure:
    """By default a layer keeps its shape and has no parameters."""
    return Measure(node.inputs)


@measure.register
def _convolutional(section: Convolutional, node: Node) -> Measure:
    channels, height, width = node.inputs
    if channels % section.groups:
        raise MisfitError(f"groups={section.groups} does not divide the {channels} channels of its input")
    if section.dilation > 1 and 2 * section.padding != section.size - 1:
        raise MisfitError(
            f"dilation={section.dilation} with size={section.size} wants padding={(section.size - 1) / 2:g}"
        )
    for key in (
        "coordconv",
        "reverse",
        "sway",
        "rotate",
        "stretch",
        "stretch_sway",
        "flipped",
        "binary",
    ):
        if getattr(section, key):
            raise MisfitError(f"{key}={getattr(section, key):g} is not supported (no published network uses it)")
    strides = (1, 1) if section.antialiasing else (section.stride_y, section.stride_x)
    height = _windows(height, section.size, strides[0], 2 * section.padding)
    width = _windows(width, section.size, strides[1], 2 * section.padding)
    weights = section.filters * channels // section.groups * section.size**2
    operations = 2 * weights * height * width
    if section.antialiasing:
        height, width = _blurred(height, width, section)
    statistics = _statistics(section.filters) if section.batch_normalize else ()
    arrays = () if section.share_index is not None else (("bias", section.filters), *statistics, ("weights", weights))
    return Measure((section.filters, height, width), arrays, operations)


def _statistics(channels: int) -> Arrays:
    """What a file holds of a batch norm besides its bias."""
    return tuple((f"bn {name}", channels) for name in ("scale", "mean", "variance"))


def _windows(extent: int, size: int, stride: int, padding: int) -> int:
    """How many windows fit; ``padding`` is that of both sides together."""
    if extent + padding < size:
        raise MisfitError(f"size={size} does not fit into {extent} pixels and {padding} of padding")
    return (extent + padding - size) // stride + 1


def _blurred(height: int, width: int, section: Convolutional | Maxpool | LocalAvgpool) -> Size:
    """What the blur of ``antialiasing`` leaves: 3x3 with padding 1, or 2x2 without."""
    size, padding = (3, 2) if section.antialiasing == 1 else (2, 0)
    return _windows(height, size, section.stride_y, padding), _windows(width, size, section.stride_x, padding)


@measure.register(Maxpool)
@measure.register(LocalAvgpool)
def _pool(section: Maxpool | LocalAvgpool, node: Node) -> Measure:
    channels, height, width = node.inputs
    if section.maxpool_depth:
        if channels % section.out_channels:
            raise MisfitError(
                f"out_channels={section.out_channels} does not divide the {channels} channels of its input"
            )
        return Measure((section.out_channels, height, width), operations=math.prod(node.inputs))
    strides = (1, 1) if section.antialiasing else (section.stride_y, section.stride_x)
    if section.padding >= 2 * section.size:
        raise MisfitError(f"padding={section.padding} leaves windows of size={section.size} outside (wanted less)")
    height = _windows(height, section.size, strides[0], section.padding)
    width = _windows(width, section.size, strides[1], section.padding)
    operations = section.size**2 * channels * height * width
    if section.antialiasing:
        height, width = _blurred(height, width, section)
    return Measure((channels, height, width), operations=operations)


@measure.register
def _avgpool(section: Avgpool, node: Node) -> Measure:
    return Measure((node.inputs[0], 1, 1), operations=math.prod(node.inputs))


@measure.register
def _upsample(section: Upsample, node: Node) -> Measure:
    channels, height, width = node.inputs
    if section.stride > 0:
        return Measure((channels, height * section.stride, width * section.stride))
    if height % section.stride or width % section.stride:
        raise UnevenError(f"stride={section.stride} does not divide its input of {height}x{width}")
    return Measure((channels, height // -section.stride, width // -section.stride))


@measure.register
def _route(section: Route, node: Node) -> Measure:
    for index, shape in zip(node.sources, node.source_shapes, strict=True):
        if shape[1:] != node.source_shapes[0][1:]:
            first = node.source_shapes[0]
            raise UnevenError(
                f"layers={_list(section.layers)}: layer {index} is {shape[1]}x{shape[2]} and layer {node.sources[0]} "
                f"{first[1]}x{first[2]} (wanted the same height and width)"
            )
        if shape[0] % section.groups:
            raise MisfitError(f"groups={section.groups} does not divide the {shape[0]} channels of layer {index}")
    channels = sum(shape[0] // section.groups for shape in node.source_shapes)
    return Measure((channels, *node.source_shapes[0][1:]))


@measure.register
def _shortcut(section: Shortcut, node: Node) -> Measure:
    _, height, width = node.inputs
    for index, shape in zip(node.sources, node.source_shapes, strict=True):
        # A source may be a whole number of times larger: Darknet's ResNets skip pixels of it.
        if shape[1] % height or shape[2] % width or shape[1] // height != shape[2] // width:
            raise UnevenError(
                f"from={_list(section.from_)}: layer {index} is {shape[1]}x{shape[2]}, the previous layer "
                f"{height}x{width} (wanted the same height and width, or a multiple)"
            )
    each = node.inputs[0] if section.weights_type == "per_channel" else 1
    arrays = () if section.weights_type == "none" else (("weights", each * (1 + len(node.sources))),)
    return Measure(node.inputs, arrays, math.prod(node.inputs) * len(node.sources))


@measure.register
def _scale_channels(section: ScaleChannels, node: Node) -> Measure:
    (shape,) = node.source_shapes
    wanted = (1, *shape[1:]) if section.scale_wh else (shape[0], 1, 1)
    if node.inputs != wanted:
        raise MisfitError(f"from={section.from_}: the previous layer is {_text(node.inputs)} (wanted {_text(wanted)})")
    return Measure(shape, operations=math.prod(shape))


@measure.register
def _sam(section: Sam, node: Node) -> Measure:
    (shape,) = node.source_shapes
    if shape != node.inputs:
        raise MisfitError(
            f"from={section.from_}: layer {node.sources[0]} is {_text(shape)}, the previous layer "
            f"{_text(node.inputs)} (wanted the same)"
        )
    return Measure(shape, operations=math.prod(shape))


@measure.register(Reorg)
@measure.register(Reorg3d)
def _reorg(section: Reorg | Reorg3d, node: Node) -> Measure:
    channels, height, width = node.inputs
    stride = section.stride
    legacy = isinstance(section, Reorg)
    if legacy and section.reverse:
        raise MisfitError("reverse=1 is not supported (no published network uses it)")
    if section.reverse:
        if channels % stride**2:
            raise MisfitError(f"stride={stride} wants a multiple of {stride**2} channels, not {channels}")
        return Measure((channels // stride**2, height * stride, width * stride))
    # The legacy permutation walks a map of channels / stride^2.
    if height % stride or width % stride or (legacy and channels % stride**2):
        raise UnevenError(f"stride={stride} does not divide its input of {_text(node.inputs)}")
    return Measure((channels * stride**2, height // stride, width // stride))


@measure.register
def _connected(section: Connected, node: Node) -> Measure:
    weights = section.output * math.prod(node.inputs)
    statistics = _statistics(section.output) if section.batch_normalize else ()
    arrays = (("bias", section.output), ("weights", weights), *statistics)  # another order than the convolution's
    return Measure((section.output, 1, 1), arrays, 2 * weights)


@measure.register
def _batchnorm(section: Batchnorm, node: Node) -> Measure:
    return Measure(node.inputs, (("bias", node.inputs[0]), *_statistics(node.inputs[0])))


@measure.register
def _crop(section: Crop, node: Node) -> Measure:
    channels, height, width = node.inputs
    if section.crop_height > height or section.crop_width > width:
        raise MisfitError(f"{section.crop_height}x{section.crop_width} is larger than its input of {height}x{width}")
    return Measure((channels, section.crop_height, section.crop_width))


@measure.register
def _implicit(section: Implicit, node: Node) -> Measure:
    return Measure((section.filters, section.atoms, 1), (("weights", section.filters * section.atoms),))


@measure.register
def _softmax(section: Softmax, node: Node) -> Measure:
    if node.inputs[0] % section.groups if section.spatial else math.prod(node.inputs) % section.groups:
        raise MisfitError(f"groups={section.groups} does not divide its input of {_text(node.inputs)}")
    return Measure(node.inputs)


@measure.register
def _head(section: Yolo, node: Node) -> Measure:
    return _check_head(section, node, len(section.mask))


@measure.register
def _region(section: Region, node: Node) -> Measure:
    return _check_head(section, node, section.num)


def _check_head(section: Yolo | Region, node: Node, anchors: int) -> Measure:
    wanted = section.filters_before(section.classes)
    if node.inputs[0] != wanted:
        raise MisfitError(
            f"classes={section.classes} with {anchors} anchors wants {wanted} channels, the layer before has "
            f"{node.inputs[0]} (set filters={wanted} there)"
        )
    return Measure(node.inputs)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _list(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values[:8])) + ("..." if len(values) > 8 else "")
