"""What a .weights file is, by its header and size alone: of which layers of a planned network it holds the values.

This needs no tensor and no torch, so that a file of another network is refused before either is there.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from models.graph import Graph
from models.shapes import Arrays, Node
from utils.errors import WeightsError

VERSION = struct.Struct("<3i")  # major, minor, revision; after it ``seen``, of 64 bits from 0.2 on


class Header(NamedTuple):
    """What stands before the values.

    Attributes:
        seen: images the network was trained on.
        transposed: connected layers are stored (inputs, outputs).
        bytes: length of the header.
        floats: how many float32 values follow.
    """

    seen: int
    transposed: bool
    bytes: int
    floats: int


def read_header(path: str | Path) -> Header:
    """The header of a .weights file.

    Raises:
        WeightsError: the file is missing, does not begin as such a file does, or ends inside a value.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(VERSION.size + 8)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error} (wanted a .weights file)") from None
    if len(start) < VERSION.size:
        raise WeightsError(f"{path}: {len(start)} bytes are no header (wanted a Darknet .weights file)")
    major, minor, _ = VERSION.unpack_from(start)
    if not (0 <= major % 1000 < 1000 and 0 <= minor % 1000 < 1000) or min(major, minor) < 0 or max(major, minor) > 2000:
        raise WeightsError(f"{path}: header says version {major}.{minor} (wanted a Darknet .weights file, such as 0.2)")
    seen = struct.Struct("<Q" if major * 10 + minor >= 2 else "<I")
    length = VERSION.size + seen.size
    if len(start) < length:
        raise WeightsError(f"{path}: {len(start)} bytes are no header (wanted a Darknet .weights file)")
    if (size - length) % 4:
        raise WeightsError(f"{path}: {size:,} bytes are no whole number of float32 values; the file is cut or damaged")
    transposed = major > 1000 or minor > 1000
    return Header(seen.unpack_from(start, VERSION.size)[0], transposed, length, (size - length) // 4)


def num_floats(path: str | Path) -> int:
    """How many values a .weights file holds."""
    return read_header(path).floats


def loaded_arrays(node: Node) -> Arrays:
    """What a file brings for a layer: all that one saved holds, but for ``dontload`` and ``dontloadscales``."""
    if node.section.dontload:
        return ()
    return tuple(one for one in node.arrays if not (node.section.dontloadscales and one[0].startswith("bn ")))


def check_length(graph: Graph, source: str, path: str | Path, *, stop_before: int | None = None) -> Header:
    """Refuse a file that does not hold just the values of a network, or of its layers before ``stop_before``.

    Args:
        graph: the plan of the network.
        source: its cfg, for the message.

    Returns:
        What stands before the values.

    Raises:
        WeightsError: it does not, or `read_header` refuses it.
    """
    header = read_header(path)
    found, wanted = header.floats, sum(layer_lengths(graph)[:stop_before])
    if found == wanted:
        return header
    part = source if stop_before is None else f"{source} before layer {stop_before}"
    message = f"{path} holds {found:,} floats, {part} needs {wanted:,}"
    if found < wanted:
        message += f"; it ends in {_place(graph, found)}"
    raise WeightsError(f"{message}; is this the right pair?")


def layer_lengths(graph: Graph) -> list[int]:
    """How many values a file brings for each layer."""
    return [sum(length for _, length in loaded_arrays(node)) for node in graph.nodes]


def backbone_layers(graph: Graph, path: str | Path) -> int | None:
    """How many layers of a network a file covers: all, the first N of a backbone file, or None if it ends inside one.

    Layers without parameters take no space; N counts those that follow the last one with parameters too, so that
    layer N is the first that keeps its initial values.
    """
    found, total = num_floats(path), 0
    lengths = layer_lengths(graph)
    for index, length in enumerate(lengths):
        if length and total == found:
            return index or None
        total += length
    return len(lengths) if total == found else None


def _place(graph: Graph, position: int) -> str:
    """The array in which value number ``position`` is."""
    for node in graph.nodes:
        for name, length in loaded_arrays(node):
            position -= length
            if position < 0:
                return f"layer {node.index} {node.section.kind} {name}"
    raise AssertionError("the file is longer than the network")
