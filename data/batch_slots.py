"""Handing mini-batches from workers to the main process in memory that is used again.

A tensor that a worker sends on its own goes into fresh shared memory, whose first use costs several times what writing
it again does: half a millisecond for an image of 416 pixels. Here the main process owns a few slots, mini-batch n
travels in slot ``n % slots``, and the main process copies it out before that slot's next mini-batch is asked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class InSlot(NamedTuple):
    """A mini-batch whose images wait in a slot.

    Attributes:
        slot: which.
        size, stride: of the images.
        rest: the mini-batch with None for its images.
    """

    slot: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    rest: Any


class BatchSlots:
    """Shared memory for the images of as many mini-batches as can be under way."""

    def __init__(self, count: int, size: int) -> None:
        """Make ``count`` slots of ``size`` bytes each; what does not fit into one travels as it did."""
        self._slots = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(count)]

    def put(self, number: int, item: Any) -> Any:
        """In the worker: ``item``, or what is to be sent for it when it is a mini-batch of bytes that fits."""
        images = getattr(item, "images", None)
        slot = number % len(self._slots)
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.numel() > len(self._slots[slot]):
            return item
        self._view(slot, images.shape, images.stride()).copy_(images)
        return InSlot(slot, tuple(images.shape), images.stride(), item._replace(images=None))

    def take(self, item: Any, *, pin_memory: bool) -> Any:
        """In the main process: the mini-batch that ``item`` stands for, in memory of its own."""
        if not isinstance(item, InSlot):
            return item
        images = torch.empty_strided(item.size, item.stride, dtype=torch.uint8, pin_memory=pin_memory)
        return item.rest._replace(images=images.copy_(self._view(item.slot, item.size, item.stride)))

    def _view(self, slot: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return self._slots[slot].as_strided(size, stride)
