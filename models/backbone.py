"""Where the backbone of a detector ends: the layers that look, before those that put together what was seen."""

from __future__ import annotations

from models.graph import HEADS, Graph
from models.shapes import Node
from utils.cfg.layers import Convolutional, Maxpool, Reorg, Reorg3d, Route, Shortcut, Upsample

BACKBONE = "backbone"  # how ``--freeze`` calls it


def backbone_size(graph: Graph) -> int:
    """How many of the first layers are the backbone; of a classifier all before the last that has weights.

    A cfg does not say it, so it is read from the shape of the network. Once the map is as small as it gets on the way
    to the first upsampling or head, the neck begins with the first layer that pools without a stride (SPP), upsamples,
    goes back to a finer map, or detects. The backbone ends before that with its last block: the last [shortcut], or
    [route] that joins, and the 1x1 convolution that closes the latter. So yolov4 has 105 layers, as CSPDarknet53 has,
    and yolov3 75, as Darknet53. Without such blocks everything before the neck counts.
    """
    if not graph.heads:
        return max((node.index for node in graph.nodes if node.parameters), default=0)
    way_up = next(node.index for node in graph.nodes if isinstance(node.section, (*HEADS, Upsample)))
    smallest = min(node.outputs[1] for node in graph.nodes[: way_up + 1])
    last_steps_down = [node.index for node in graph.nodes[:way_up] if _shrinks(node) and node.outputs[1] == smallest]
    down = max(last_steps_down, default=0)
    neck = next(node.index for node in graph.nodes[down:] if _begins_neck(node))
    neck -= neck in graph.heads  # the convolution before a head is the head's
    blocks = [node.index for node in graph.nodes[:neck] if _ends_block(node)]
    if not blocks:
        return neck
    last = graph.nodes[blocks[-1]]
    closing = graph.nodes[last.index + 1]
    closed = isinstance(last.section, Route) and _is_pointwise(closing) and closing.index < neck
    return last.index + 1 + closed


def _shrinks(node: Node) -> bool:
    return isinstance(node.section, (Convolutional, Maxpool)) and node.outputs[1] < node.inputs[1]


def _begins_neck(node: Node) -> bool:
    section = node.section
    spp = isinstance(section, Maxpool) and section.stride == 1 and section.size > 1
    back = isinstance(section, Route) and node.outputs[1] > node.inputs[1]
    return spp or back or isinstance(section, (*HEADS, Upsample, Reorg, Reorg3d))


def _ends_block(node: Node) -> bool:
    return isinstance(node.section, Shortcut) or (isinstance(node.section, Route) and len(node.sources) > 1)


def _is_pointwise(node: Node) -> bool:
    return isinstance(node.section, Convolutional) and node.section.size == 1
