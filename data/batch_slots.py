"""Handing mini-batches from workers to the main process in memory that is used again.

A tensor that a worker sends on its own goes into fresh shared memory, whose first use costs several times what writing
it again does. Here the main process owns a few slots, mini-batch n is made in slot ``n % slots``, and the main process
copies it out before that slot's next mini-batch is asked for.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class InSlot(NamedTuple):
    """A mini-batch whose images wait in a slot.

    Attributes:
        slot: which.
        size, stride: of the images.
        rest: the mini-batch with None for its images and arrays for its other tensors.
    """

    slot: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    rest: Any


class BatchSlots:
    """Shared memory for the images of as many mini-batches as can be under way."""

    def __init__(self, count: int, size: int) -> None:
        """Make ``count`` slots of ``size`` bytes each; what does not fit into one travels on its own."""
        self._slots = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(count)]

    def room(self, number: int, size: tuple[int, ...]) -> Tensor:
        """In the worker: uint8 of ``size`` to make the images of mini-batch ``number`` in, in its slot if they fit."""
        slot = self._slots[number % len(self._slots)]
        if math.prod(size) > len(slot):
            return torch.empty(size, dtype=torch.uint8)
        return slot[: math.prod(size)].view(size)

    def put(self, number: int, item: Any) -> Any:
        """In the worker: what is to be sent for mini-batch ``number``: ``item``, or where its images lie."""
        images, slot = getattr(item, "images", None), number % len(self._slots)
        if not isinstance(images, Tensor) or images.data_ptr() != self._slots[slot].data_ptr():
            return item
        return InSlot(slot, tuple(images.shape), images.stride(), _with_arrays(item._replace(images=None)))

    def take(self, item: Any, *, pin_memory: bool) -> Any:
        """In the main process: the mini-batch that ``item`` stands for, in memory of its own."""
        if not isinstance(item, InSlot):
            return item
        images = torch.empty_strided(item.size, item.stride, dtype=torch.uint8, pin_memory=pin_memory)
        images.copy_(self._slots[item.slot].as_strided(item.size, item.stride))
        return _with_tensors(item.rest)._replace(images=images)


def _with_arrays(item: Any) -> Any:
    """Named tuples, at any depth, with arrays for tensors: of those each would be a file to open, send and map."""
    if isinstance(item, Tensor):
        return item.numpy()
    return type(item)(*map(_with_arrays, item)) if hasattr(item, "_fields") else item


def _with_tensors(item: Any) -> Any:
    """The way back."""
    if isinstance(item, np.ndarray):
        return torch.from_numpy(item)
    return type(item)(*map(_with_tensors, item)) if hasattr(item, "_fields") else item
