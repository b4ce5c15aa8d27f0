"""Layers that read earlier layers besides the previous one: route, shortcut, scale_channels, sam."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.activations import activate_
from models.layers.parametric import NamedTensors, straight_through
from models.shapes import Node
from utils.cfg.layers import Route, Sam, ScaleChannels, Shortcut

WEIGHT_EPSILON = 1e-4  # Darknet adds it to the sum that normalised weights are divided by


class RouteLayer(nn.Module):
    """[route]: one slice of the channels of each source, one after the other. The previous layer is not read."""

    def __init__(self, section: Route) -> None:
        super().__init__()
        self.groups, self.group_id = section.groups, section.group_id

    def forward(self, _: Tensor, *sources: Tensor) -> Tensor:
        """Sources (B, C_i, H, W) to (B, sum of C_i / groups, H, W)."""
        if self.groups > 1:
            sources = tuple(source.chunk(self.groups, 1)[self.group_id] for source in sources)
        return sources[0] if len(sources) == 1 else torch.cat(sources, 1)


class ShortcutLayer(nn.Module):
    """[shortcut]: the previous layer plus the sources, each with a learned weight where ``weights_type`` says so.

    A source with fewer channels is added to the first ones, of one with more only the first are taken. Of a larger map
    every second (third ...) pixel is added, as in the Darknet that the published ResNets were trained with.

    ``only_adds``: it is the plain sum of the previous layer and one source of the same shape.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        section: Shortcut = node.section
        self.activation, self.normalization = section.activation, section.weights_normalization
        terms = 1 + len(node.sources)
        plain = section.activation == "linear" and section.weights_type == "none"
        self.only_adds = plain and node.source_shapes == (node.inputs,)
        self.weight = None
        if section.weights_type != "none":
            channels = node.inputs[0] if section.weights_type == "per_channel" else 1
            self.weight = nn.Parameter(torch.ones(terms, channels))

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; without sources, as a fused network calls it, the sum is ``x``."""
        terms = [x, *(_fit(source, x) for source in sources)]
        if self.weight is not None:
            weights = self._normalized_weights()[:, :, None, None].to(x.dtype)  # (terms, C or 1, 1, 1)
            terms = [term * weight[: term.shape[1]] for term, weight in zip(terms, weights, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = _add(total, term)
        return activate_(total, self.activation)

    def _normalized_weights(self) -> Tensor:
        """The factors as used; Darknet's gradient takes the normalisation for the identity."""
        weight = self.weight
        assert weight is not None
        if self.normalization == "none":
            return weight
        positive = (weight - weight.amax(0)).exp() if self.normalization == "softmax" else F.relu(weight)
        return straight_through(positive / (positive.sum(0) + WEIGHT_EPSILON), weight)

    def darknet_parameters(self) -> NamedTensors:
        """The weights, those of the previous layer first."""
        if self.weight is not None:
            yield "weights", self.weight


def _fit(source: Tensor, x: Tensor) -> Tensor:
    """The part of ``source`` that has a place in ``x``."""
    step = source.shape[2] // x.shape[2]
    source = source[:, :, ::step, ::step] if step > 1 else source
    return source[:, : x.shape[1]]


def _add(x: Tensor, term: Tensor) -> Tensor:
    """``x`` plus ``term`` in its first channels."""
    channels = term.shape[1]
    if channels == x.shape[1]:
        return x + term
    return torch.cat((x[:, :channels] + term, x[:, channels:]), 1)


class ScaleChannelsLayer(nn.Module):
    """[scale_channels]: the source times the previous layer, which has one value a channel (or one a pixel)."""

    def __init__(self, section: ScaleChannels) -> None:
        super().__init__()
        self.activation = section.activation

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """x (B, C, 1, 1) or (B, 1, H, W), source (B, C, H, W)."""
        return activate_(source * x, self.activation)


class SamLayer(nn.Module):
    """[sam]: spatial attention as in YOLOv4, the source times the previous layer value by value."""

    def __init__(self, section: Sam) -> None:
        super().__init__()
        self.activation = section.activation

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """Both (B, C, H, W)."""
        return activate_(source * x, self.activation)
