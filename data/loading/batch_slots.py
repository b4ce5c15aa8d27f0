"""Handing mini-batches from workers to the main process in memory that is used again.

A tensor that a worker sends on its own goes into fresh shared memory, whose first use costs several times what writing
it again does. Here the main process owns a few slots and gives one to each mini-batch that it asks for. It uses the
images where they lie: their slot is free again when nothing refers to them any more.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_IN_USE = 3  # mini-batches: the one at hand, the one before it until its name is bound anew, the one that is asked for


class InSlot(NamedTuple):
    """A mini-batch whose images wait in a slot.

    Attributes:
        slot: its number.
        size, stride: of the images.
        rest: the mini-batch with None for its images and arrays for its other tensors.
    """

    slot: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    rest: Any


class BatchSlots:
    """Shared memory for the images of mini-batches under way, and of a few more that are in use."""

    def __init__(self, under_way: int, size: int) -> None:
        """Make slots of ``size`` bytes; what does not fit into one travels on its own.

        Args:
            under_way: mini-batches that are asked for before the first of them is taken, at most.
        """
        count = under_way + _IN_USE
        self._slots = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(count)]
        self._slot_of = torch.zeros(count, dtype=torch.int64).share_memory_()  # of mini-batch n, at n % count
        self._free = deque(range(count))
        self._under_way: deque[int] = deque()

    def asking(self, numbers: range) -> Iterator[int]:
        """In the main process: the mini-batches to ask for, each with a slot from the moment it is drawn.

        They are to be taken in the same order.
        """
        for number in numbers:
            slot = self._free.popleft()  # `take` leaves one
            self._slot_of.numpy()[number % len(self._slots)] = slot
            self._under_way.append(slot)
            yield number

    def give_up(self) -> None:
        """In the main process, when there are no workers any more: free the slots of what nobody will take."""
        self._free.extend(self._under_way)
        self._under_way.clear()

    def room(self, number: int, size: tuple[int, ...]) -> Tensor:
        """In the worker: uint8 of ``size`` to make the images of mini-batch ``number`` in, in its slot if they fit."""
        slot = self._slots[self._given(number)]
        if math.prod(size) > len(slot):
            return torch.empty(size, dtype=torch.uint8)
        return slot[: math.prod(size)].view(size)

    def put(self, number: int, item: Any) -> Any:
        """In the worker: what is to be sent for mini-batch ``number``: ``item``, or where its images lie."""
        images, slot = getattr(item, "images", None), self._given(number)
        if not isinstance(images, Tensor) or images.data_ptr() != self._slots[slot].data_ptr():
            return item
        return InSlot(slot, tuple(images.shape), images.stride(), _with_arrays(item._replace(images=None)))

    def take(self, item: Any, *, pin_memory: bool) -> Any:
        """In the main process: the next mini-batch, which ``item`` stands for.

        Its images are those in the slot, or a copy: in pinned memory, and where the last mini-batches are all still in
        use and the next one would find no slot.
        """
        slot = self._under_way.popleft()
        if not isinstance(item, InSlot):
            self._free.append(slot)
            return item
        pixels = self._slots[slot].numpy()  # an object of its own, which tensors made of it keep alive
        weakref.finalize(pixels, self._free.append, slot).atexit = False
        images = torch.from_numpy(pixels).as_strided(item.size, item.stride)
        if pin_memory or not self._free:
            copy = torch.empty_strided(item.size, item.stride, dtype=torch.uint8, pin_memory=pin_memory)
            images = copy.copy_(images)
        return _with_tensors(item.rest)._replace(images=images)

    def _given(self, number: int) -> int:
        return int(self._slot_of.numpy()[number % len(self._slots)])


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
