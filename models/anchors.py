"""New anchors for a cfg: small ones to the heads with fine grids, and the filters that go with their number."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from models.graph import plan
from models.shapes import Node
from utils.cfg import Config
from utils.cfg.heads import Region
from utils.errors import UsageError


def with_anchors(config: Config, anchors: np.ndarray) -> Config:
    """The detector with other ``anchors`` (A, 2), width and height in input pixels, by rising area.

    A [yolo] section is given whole pixels, [region] cells.

    Raises:
        CfgError, UsageError: as ``share_out``.
    """
    nodes = plan(config).nodes
    layers: list[Any] = list(config.layers)
    for index, mask in share_out(config, len(anchors)).items():
        head = layers[index]
        if isinstance(head, Region):
            cells = _pairs(np.round(anchors / _cell(config, nodes[index]), 4))
            head = head.with_values(anchors=cells, num=len(anchors))
        else:
            pixels = _pairs(np.maximum(np.round(anchors), 1))
            head = head.with_values(anchors=pixels, num=len(anchors), mask=mask)
        layers[index] = head
        layers[index - 1] = layers[index - 1].with_values(filters=head.filters_before(head.classes))
    return dataclasses.replace(config, layers=tuple(layers))


def share_out(config: Config, count: int) -> dict[int, tuple[int, ...]]:
    """Which of ``count`` anchors, by rising area, belong to which head: layer -> anchors, the finest grid first.

    The heads get as many each, the smallest to the finest grid, as in Darknet's own cfgs; where they cannot be even,
    fine heads have one more.

    Raises:
        CfgError: the cfg cannot be built.
        UsageError: it has no heads, or more of them than there are anchors.
    """
    graph = plan(config)
    if not graph.heads:
        raise UsageError(f"{config.source}: no [yolo], [Gaussian_yolo] or [region] section to give anchors to")
    if count < len(graph.heads):
        raise UsageError(f"{count} anchors for the {len(graph.heads)} heads of {config.source}; each needs one")
    finest_first = sorted(graph.heads, key=lambda index: _cell(config, graph.nodes[index]).prod())
    shares = np.array_split(np.arange(count), len(graph.heads))
    return {index: tuple(share.tolist()) for index, share in zip(finest_first, shares, strict=True)}


def count_anchors(config: Config) -> int:
    """How many anchors the heads of a cfg choose from."""
    layers: tuple[Any, ...] = config.layers
    return max((len(layers[index].anchors) for index in plan(config).heads), default=0)


def anchors_of(config: Config) -> np.ndarray:
    """The anchors that some head of a cfg uses: (A, 2) in input pixels, by rising area.

    Raises:
        CfgError: the cfg cannot be built.
    """
    used = [np.zeros((0, 2)), *(head.anchors for head in head_anchors(config))]
    anchors = np.unique(np.concatenate(used), axis=0)
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")]


class HeadAnchors(NamedTuple):
    """The width of a head's cell in input pixels, and the anchors it uses, (A, 2) in input pixels."""

    stride: float
    anchors: np.ndarray


def head_anchors(config: Config) -> list[HeadAnchors]:
    """The anchors of each head of a cfg, the finest grid first.

    Raises:
        CfgError: the cfg cannot be built.
    """
    found = []
    for index in (graph := plan(config)).heads:
        head, cell = graph.nodes[index].section, _cell(config, graph.nodes[index])
        anchors = np.array(head.anchors, dtype=np.float64)
        found.append(HeadAnchors(cell[0], anchors * cell if isinstance(head, Region) else anchors[list(head.mask)]))
    return sorted(found, key=lambda head: head.stride)


def _cell(config: Config, head: Node) -> np.ndarray:
    """Width and height of a head's cell in input pixels."""
    _, height, width = head.inputs
    return np.array((config.net.width / width, config.net.height / height))


def _pairs(anchors: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((width, height) for width, height in anchors.tolist())
