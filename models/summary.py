"""The table of layers, in the form Darknet's users know."""

from __future__ import annotations

from models.graph import Graph
from models.shapes import Node, Shape
from utils.cfg.layers import Convolutional, LocalAvgpool, Maxpool, Upsample

_ROW = "{:>5}  {:<15} {:>7}  {:<13} {:>18} -> {:<18} {:>12} {:>8}"


def summary(graph: Graph) -> str:
    """One line a layer: kind, filters, size/stride, input, output (W x H x C), parameters, BFLOPs; then the totals."""
    head = _ROW.format("layer", "kind", "filters", "size/stride", "input", "output", "parameters", "BFLOPs")
    rows = [_row(node) for node in graph.nodes]
    totals = (
        f"{graph.parameters:,} parameters ({graph.parameters * 4 / 2**20:.1f} MiB of .weights), "
        f"{graph.operations / 1e9:.3f} BFLOPs, {graph.activations * 4 / 2**20:.1f} MiB of float32 activations an image"
    )
    return "\n".join((head, *rows, totals))


def _row(node: Node) -> str:
    section = node.section
    filters = str(section.filters) if isinstance(section, Convolutional) else ""
    read = " ".join(map(str, node.sources))
    cost = f"{node.operations / 1e9:.3f}" if node.operations else ""
    parameters = f"{node.parameters:,}" if node.parameters else ""
    return _ROW.format(
        node.index,
        section.kind,
        filters,
        _window(node) or read,
        _whc(node.inputs),
        _whc(node.outputs),
        parameters,
        cost,
    ).rstrip()


def _window(node: Node) -> str:
    """``3x3/2``, with groups and dilation where there are any."""
    section = node.section
    if isinstance(section, Upsample):
        return f"{section.stride}x"
    if not isinstance(section, Convolutional | Maxpool | LocalAvgpool):
        return ""
    same = section.stride_x == section.stride_y
    text = f"{section.size}x{section.size}/{section.stride_x}" + ("" if same else f"x{section.stride_y}")
    if isinstance(section, Convolutional):
        text += f" g{section.groups}" if section.groups > 1 else ""
        text += f" d{section.dilation}" if section.dilation > 1 else ""
    return text


def _whc(shape: Shape) -> str:
    channels, height, width = shape
    return f"{width} x {height} x {channels}"
