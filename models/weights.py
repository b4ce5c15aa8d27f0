"""Darknet's .weights files: a header, then float32 values in cfg order, every one accounted for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.darknet import Darknet
from models.layers.parametric import ConnectedLayer
from models.weights_file import VERSION, check_length, loaded_arrays
from utils.atomic import atomic_write
from utils.errors import WeightsError

_VERSION = (0, 2, 5)  # what Darknet writes
_BLOCK = 2**20  # values mapped at a time; loading takes these 4 MiB beside the network, whatever the size of the file


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
        ValueError: the network is fused; its batch norms are gone.
    """
    path = Path(path)
    header = check_length(network.graph, network.config.source, path, stop_before=stop_before)
    slots = _slots(network, path, loading=True, stop_before=stop_before)
    position = header.bytes
    with path.open("rb") as file:
        for slot in slots:
            if not _read(file, position, slot, transposed=header.transposed and slot.transposable):
                place = f"layer {slot.layer} {network.config.layers[slot.layer].kind} {slot.name}"
                raise WeightsError(f"{path}: NaN or infinity in {place}; take an older file")
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
    slots = _slots(network, path, loading=False, stop_before=stop_before)
    with atomic_write(Path(path)) as file:
        file.write(VERSION.pack(*_VERSION) + struct.pack("<Q", network.seen if seen is None else seen))
        for slot in slots:
            _write(slot.tensor, file)


def _slots(network: Darknet, path: str | Path, *, loading: bool, stop_before: int | None) -> list[Slot]:
    """The arrays of the file in order; ``dontload`` and ``dontloadscales`` hold for loading only."""
    slots = []
    for node in network.graph.nodes[:stop_before]:
        layer: Any = network.layers[node.index]
        tensors = dict(layer.darknet_parameters()) if node.arrays else {}
        if [(name, tensor.numel()) for name, tensor in tensors.items()] != list(node.arrays):
            raise ValueError(f"{path}: a fused network has no batch norms to save or load; do that before fuse()")
        for name, _ in loaded_arrays(node) if loading else node.arrays:
            transposable = isinstance(layer, ConnectedLayer) and name == "weights"
            slots.append(Slot(node.index, name, tensors[name], transposable))
    return slots


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


def _write(tensor: Tensor, file: IO[Any]) -> None:
    file.write(tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).tobytes())
