"""The network as a plan: the shape, parameters and cost of every layer, known before a tensor is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from models.shapes import MisfitError, Node, Shape, UnevenError, measure
from utils.cfg import Config
from utils.cfg.heads import Contrastive, GaussianYolo, Region, Yolo
from utils.cfg.layers import (
    Convolutional,
    Cost,
    Implicit,
    Route,
    Sam,
    ScaleChannels,
    Section,
    Shortcut,
    Softmax,
    Unsupported,
)
from utils.cfg.net import Net
from utils.errors import CfgError

MAX_PARAMETERS = 2**30  # 4 GiB of float32
MAX_ACTIVATIONS = 2**32  # values of one image and all its layers, 16 GiB; the largest published network has 6 GiB
_USUAL_STRIDE = 32  # input pixels per cell of the coarsest grid of YOLO networks

HEADS = (Yolo, Region)  # GaussianYolo is a Yolo


@dataclass(frozen=True)
class Graph:
    """All layers, and what the network gives back.

    Attributes:
        nodes: one a layer.
        heads: indices of the detection heads; empty for a classifier.
        embeddings: indices of the [contrastive] layers that belong to a head; only training reads what they put out.
        last_use: the last layer that reads each layer's output (itself where none does).
        output: the layer whose output a network without heads returns: the input of its last [softmax], or the end.
    """

    nodes: tuple[Node, ...]
    heads: tuple[int, ...]
    embeddings: tuple[int, ...]
    last_use: tuple[int, ...]
    output: int

    @property
    def parameters(self) -> int:
        """Values in the .weights file."""
        return sum(node.parameters for node in self.nodes)

    @property
    def operations(self) -> int:
        """Multiplications and additions for one image of the cfg's size."""
        return sum(node.operations for node in self.nodes)

    @property
    def activations(self) -> int:
        """Values all layers put out for one image, most of which training has to keep."""
        return sum(math.prod(node.outputs) for node in self.nodes)

    @property
    def some_idle(self) -> bool:
        """Whether there are training steps in which parameters get no gradient, besides those frozen for good."""
        sections = [node.section for node in self.nodes]
        held = any(section.stopbackward > 1 or section.onlyforward for section in sections)
        return held or bool(self.embeddings) or any(map(self._leads_nowhere, range(len(self.nodes))))

    def _leads_nowhere(self, index: int) -> bool:
        """Whether neither a layer nor the caller reads the output of layer ``index``."""
        if index in (*self.heads, *self.embeddings, self.output) or self.last_use[index] > index:
            return False
        return index + 1 == len(self.nodes) or isinstance(self.nodes[index + 1].section, Route | Implicit)


def plan(config: Config) -> Graph:
    """Work out every layer's shape and cost, and refuse what cannot be built.

    Raises:
        CfgError: ``FILE:LINE: [kind] ...`` for sections this project does not build, shapes that do not fit, a head
            after the wrong number of filters, or a network too big to be meant.
    """
    _refuse_unsupported(config)
    shape = (config.net.channels, config.net.height, config.net.width)
    if min(shape) < 1:
        channels, height, width = shape
        raise CfgError(
            f"{config.where(config.net)} width={width} height={height} channels={channels} (wanted at least 1 of each)"
        )
    nodes: list[Node] = []
    parameters, activations = 0, math.prod(shape)
    if activations > MAX_ACTIVATIONS:
        raise CfgError(f"{config.where(config.net)} an image of {_too_many(activations)}")
    for index, section in enumerate(config.layers):
        try:
            node = _node(index, section, shape, nodes)
            parameters += node.parameters
            activations += math.prod(node.outputs)
            _check_budget(parameters, activations)
        except MisfitError as misfit:
            hint = _size_hint(config.net) if isinstance(misfit, UnevenError) else ""
            raise CfgError(f"{config.where(section)} {misfit}{hint}") from None
        nodes.append(node)
        shape = node.outputs
    return _graph(config, tuple(nodes))


def _size_hint(net: Net) -> str:
    """What to do about an input size that the strides of usual networks do not divide."""
    if net.width % _USUAL_STRIDE == net.height % _USUAL_STRIDE == 0:
        return ""
    return f"; the input is {net.width} wide and {net.height} high, take multiples of {_USUAL_STRIDE}"


def absolute(index: int, reference: int) -> int:
    """The layer a cfg's ``reference`` in layer ``index`` means: negative counts back from it."""
    return index + reference if reference < 0 else reference


def _refuse_unsupported(config: Config) -> None:
    if not config.layers:
        raise CfgError(f"{config.where(config.net)} no layers after it (wanted at least one)")
    for section in config.layers:
        if isinstance(section, Unsupported):
            raise CfgError(f"{config.where(section)} this kind of layer is not supported (see docs/darknet.md)")


def _node(index: int, section: Section, inputs: Shape, nodes: list[Node]) -> Node:
    sources = tuple(absolute(index, reference) for reference in _references(section))
    reads = sources if isinstance(section, Route) else (*sources, index - 1)
    for source in reads:
        if source >= 0 and isinstance(nodes[source].section, HEADS):
            raise MisfitError(f"reads layer {source}, a [{nodes[source].section.kind}] head (wanted a layer before it)")
    node = Node(index, section, inputs, sources, tuple(nodes[source].outputs for source in sources))
    if isinstance(section, Convolutional) and section.share_index is not None:
        _check_shared(section, node, nodes[absolute(index, section.share_index)])
    if isinstance(section, Contrastive) and section.yolo_layer is not None:
        _check_embeddings(section, node, nodes[absolute(index, section.yolo_layer)])
    found = measure(section, node)
    return replace(node, outputs=found.outputs, arrays=found.arrays, operations=found.operations)


def _references(section: Any) -> tuple[int, ...]:
    if isinstance(section, Route):
        return section.layers
    if isinstance(section, Shortcut):
        return section.from_
    if isinstance(section, ScaleChannels | Sam):
        return (section.from_,)  # type: ignore[return-value]  # a cfg without it is refused
    return ()


def _check_shared(section: Convolutional, node: Node, other: Node) -> None:
    theirs = other.section
    if not isinstance(theirs, Convolutional):
        raise MisfitError(f"share_index={section.share_index} is a [{theirs.kind}] (wanted a [convolutional])")
    mine, shared = (
        (n.inputs[0], s.filters, s.size, s.groups, bool(s.batch_normalize))
        for n, s in ((node, section), (other, theirs))
    )
    if mine != shared:
        raise MisfitError(
            f"share_index={section.share_index}: (channels, filters, size, groups, batch_normalize) are {mine} here "
            f"and {shared} there (wanted the same)"
        )


def _check_embeddings(section: Contrastive, node: Node, head: Node) -> None:
    """What a [contrastive] layer reads must hold an embedding for each prediction of its head."""
    if not isinstance(head.section, Yolo) or isinstance(head.section, GaussianYolo):
        raise MisfitError(f"yolo_layer={section.yolo_layer} is a [{head.section.kind}] (wanted a [yolo])")
    anchors = len(head.section.mask)
    if node.inputs[0] % anchors or node.inputs[1:] != head.outputs[1:]:
        channels, height, width = node.inputs
        raise MisfitError(
            f"reads {channels} channels of {height}x{width} (wanted a multiple of the {anchors} anchors of layer "
            f"{head.index}, {head.outputs[1]}x{head.outputs[2]})"
        )


def _check_budget(parameters: int, activations: int) -> None:
    if parameters > MAX_PARAMETERS:
        raise MisfitError(f"brings the network to {parameters:,} parameters (wanted at most {MAX_PARAMETERS:,})")
    if activations > MAX_ACTIVATIONS:
        raise MisfitError(f"brings one image to {_too_many(activations)}")


def _too_many(activations: int) -> str:
    return f"{activations:,} activations, {activations / 2**28:,.0f} GiB (wanted at most {MAX_ACTIVATIONS:,})"


def _graph(config: Config, nodes: tuple[Node, ...]) -> Graph:
    heads = tuple(node.index for node in nodes if isinstance(node.section, HEADS))
    embeddings = tuple(
        node.index for node in nodes if isinstance(node.section, Contrastive) and node.section.yolo_layer is not None
    )
    if len({nodes[head].section.classes for head in heads}) > 1:
        counts = ", ".join(str(nodes[head].section.classes) for head in heads)
        raise CfgError(f"{config.where(nodes[heads[-1]].section)} the heads have {counts} classes (wanted the same)")
    last_use = list(range(len(nodes)))
    for node in nodes:
        for source in node.sources:
            last_use[source] = node.index
    return Graph(nodes, heads, embeddings, tuple(last_use), _output(nodes))


def _output(nodes: tuple[Node, ...]) -> int:
    """The layer before a closing [softmax], [cost] or both; -1 would be the image."""
    last = len(nodes) - 1
    if isinstance(nodes[last].section, Cost):
        last -= 1
    if last >= 0 and isinstance(nodes[last].section, Softmax):
        last -= 1
    return last
