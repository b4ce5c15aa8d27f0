"""Darknet's .weights files: a header, then float32 values in cfg order, every one accounted for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.darknet import Darknet
from models.layers import ConnectedLayer
from utils.atomic import atomic_write
from utils.errors import WeightsError

VERSION = (0, 2, 5)  # what Darknet writes; from 0.2 on ``seen`` has 64 bits
_VERSION = struct.Struct("<3i")
_BLOCK = 2**20  # values mapped at a time; loading takes these 4 MiB beside the network, whatever the size of the file


class Header(NamedTuple):
    """What stands before the values.

    Attributes:
        seen: images the network was trained on.
        transposed: connected layers are stored (inputs, outputs).
        bytes: length of the header.
    """

    seen: int
    transposed: bool
    bytes: int


class Slot(NamedTuple):
    """One array of a .weights file: ``name`` is for messages, ``tensor`` is the network's own."""

    layer: int
    name: str
    tensor: Tensor
    transposable: bool


def load_darknet_weights(network: Darknet, path: str | Path, *, stop_before: int | None = None) -> int:
    """Copy a Darknet ``.weights`` file into ``network`` in place; return ``seen``, the images it was trained on.

    Every value must be used, unless ``stop_before`` names the layer at which a backbone file (``yolov4.conv.137``)
    ends. The file's length is checked before anything is copied, and it is memory-mapped block by block, so that the
    network's own tensors are all that grows with it.

    Raises:
        WeightsError: the file is missing, has another length than the cfg needs, or holds NaN or infinity; the network
            is as it was, except after NaN.
    """
    path = Path(path)
    header, count = _open(path)
    slots = [slot for slot in _slots(network, loading=True) if stop_before is None or slot.layer < stop_before]
    _check_length(network, path, count, slots, stop_before)
    position = header.bytes
    with path.open("rb") as file:
        for slot in slots:
            if not _read(file, position, slot, transposed=header.transposed and slot.transposable):
                raise WeightsError(f"{path}: NaN or infinity in {_where(network, slot)}; take an older file")
            position += 4 * slot.tensor.numel()
    network.seen = header.seen
    return header.seen


def save_darknet_weights(
    network: Darknet, path: str | Path, *, seen: int | None = None, stop_before: int | None = None
) -> None:
    """Write the network's weights as Darknet 0.2.5 does, atomically.

    Args:
        seen: images trained on; default ``network.seen``.
        stop_before: write a backbone: the layers before this one (as ``darknet partial``).

    Raises:
        ValueError: the network is fused; its batch norms are gone.
        EnvironmentFault: the disk refuses.
    """
    slots = [slot for slot in _slots(network, loading=False) if stop_before is None or slot.layer < stop_before]
    wanted = sum(node.parameters for node in network.graph.nodes[:stop_before])
    if sum(slot.tensor.numel() for slot in slots) != wanted:
        raise ValueError(f"{path}: a fused network has no batch norms to save; save before fuse()")
    with atomic_write(Path(path)) as file:
        file.write(_VERSION.pack(*VERSION) + struct.pack("<Q", network.seen if seen is None else seen))
        for slot in slots:
            _write(slot.tensor, file)


def num_floats(path: str | Path) -> int:
    """How many values a .weights file holds."""
    return _open(Path(path))[1]


def backbone_layers(network: Darknet, path: str | Path) -> int | None:
    """How many layers of ``network`` a file covers: all, the first N of a backbone file, or None if it ends inside one.

    Layers without parameters take no space; N counts those that follow the last one with parameters too, so that
    layer N is the first that keeps its initial values.
    """
    found, total = num_floats(path), 0
    sizes = [0] * len(network.layers)
    for slot in _slots(network, loading=True):
        sizes[slot.layer] += slot.tensor.numel()
    for index, size in enumerate(sizes):
        if size and total == found:
            return index or None
        total += size
    return len(sizes) if total == found else None


def _slots(network: Darknet, *, loading: bool) -> Iterator[Slot]:
    """The arrays of the file in order; ``dontload`` and ``dontloadscales`` hold for loading only."""
    for index, layer in enumerate(network.layers):
        section = network.config.layers[index]
        if not hasattr(layer, "darknet_parameters") or (loading and section.dontload):
            continue
        for name, tensor in layer.darknet_parameters():
            if not (loading and section.dontloadscales and name.startswith("bn ")):
                yield Slot(index, name, tensor, isinstance(layer, ConnectedLayer) and name == "weights")


def _open(path: Path) -> tuple[Header, int]:
    """The header, and how many float32 values follow it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_VERSION.size + 8)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error} (wanted a .weights file)") from None
    header = _header(path, start)
    if (size - header.bytes) % 4:
        raise WeightsError(f"{path}: {size:,} bytes are no whole number of float32 values; the file is cut or damaged")
    return header, (size - header.bytes) // 4


def _header(path: Path, start: bytes) -> Header:
    if len(start) < _VERSION.size:
        raise WeightsError(f"{path}: {len(start)} bytes are no header (wanted a Darknet .weights file)")
    major, minor, _ = _VERSION.unpack_from(start)
    if not (0 <= major % 1000 < 1000 and 0 <= minor % 1000 < 1000) or min(major, minor) < 0 or max(major, minor) > 2000:
        raise WeightsError(f"{path}: header says version {major}.{minor} (wanted a Darknet .weights file, such as 0.2)")
    seen = struct.Struct("<Q" if major * 10 + minor >= 2 else "<I")
    if len(start) < _VERSION.size + seen.size:
        raise WeightsError(f"{path}: {len(start)} bytes are no header (wanted a Darknet .weights file)")
    transposed = major > 1000 or minor > 1000
    return Header(seen.unpack_from(start, _VERSION.size)[0], transposed, _VERSION.size + seen.size)


def _check_length(network: Darknet, path: Path, found: int, slots: list[Slot], stop_before: int | None) -> None:
    wanted = sum(slot.tensor.numel() for slot in slots)
    if found == wanted:
        return
    part = network.config.source if stop_before is None else f"{network.config.source} before layer {stop_before}"
    message = f"{path} holds {found:,} floats, {part} needs {wanted:,}"
    if found < wanted:
        message += f"; it ends in {_where(network, _slot_at(slots, found))}"
    raise WeightsError(f"{message}; is this the right pair?")


def _slot_at(slots: list[Slot], position: int) -> Slot:
    for slot in slots:
        position -= slot.tensor.numel()
        if position < 0:
            return slot
    raise AssertionError("the file is longer than the network")


def _where(network: Darknet, slot: Slot) -> str:
    return f"layer {slot.layer} {network.config.layers[slot.layer].kind} {slot.name}"


@torch.no_grad()
def _read(file: BinaryIO, position: int, slot: Slot, *, transposed: bool) -> bool:
    """Copy the values from byte ``position`` on into a slot's tensor; False where one of them is not finite."""
    target = slot.tensor.T if transposed else slot.tensor
    row = target[0].numel()
    for block in target.split(max(1, _BLOCK // row)):
        # Copy on write, because torch wants memory it could write to; nothing is ever written.
        values = np.memmap(file, "<f4", "c", position, (block.numel(),))
        if not np.isfinite(values).all():
            return False
        block.copy_(torch.from_numpy(values).view(block.shape))
        position += 4 * block.numel()
    return True


def _write(tensor: Tensor, file: BinaryIO) -> None:
    file.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes())
