"""Slots: what travels in them, what does not, and when one is used again."""

from __future__ import annotations

import time

import pytest
import torch

from data.batch_loader import BatchLoader, reading_marks
from data.batch_slots import BatchSlots, InSlot
from data.dataset import Dataset
from utils.structures import Batch, Targets

NO_TARGETS = Targets(*(torch.zeros(0) for _ in range(4)))
DATASET = Dataset((), (), (), "none")


def made(number: int, side: int = 4, dtype: torch.dtype = torch.uint8) -> Batch:
    images = torch.full((2, side, side, 3), number, dtype=dtype).permute(0, 3, 1, 2)
    return Batch(images, NO_TARGETS, (str(number),))


class Numbered:
    """Mini-batches full of their number, late every third time."""

    dataset = DATASET

    def __getitem__(self, number: int) -> Batch:
        time.sleep(0.02 * (number % 3 == 0))
        return made(number)


def test_what_is_put_is_taken_in_memory_of_its_own() -> None:
    slots = BatchSlots(2, 96)
    sent = slots.put(3, made(7))
    assert isinstance(sent, InSlot) and sent.slot == 1 and sent.rest.images is None
    taken = slots.take(sent, pin_memory=False)
    slots.put(5, made(9))  # the same slot
    assert torch.equal(taken.images, made(7).images) and taken.images.stride() == made(7).images.stride()
    assert taken.names == ("7",)


@pytest.mark.parametrize("item", [made(1, side=5), made(1, dtype=torch.float32), ValueError("an error"), (1, 2)])
def test_what_does_not_fit_travels_as_it_is(item: object) -> None:
    slots = BatchSlots(1, 96)
    assert slots.put(0, item) is item and slots.take(item, pin_memory=False) is item


@pytest.mark.parametrize("workers", [1, 2])
def test_no_slot_is_written_to_before_it_is_read(workers: int) -> None:
    loader = BatchLoader(Numbered(), range(5, 45), workers, reading_marks(workers), False, None, slot_size=96)
    kept = []
    for batch in loader:
        time.sleep(0.005)  # the workers run ahead as far as they can
        kept.append(batch)
    for number, batch in enumerate(kept, start=5):
        assert batch.names == (str(number),) and torch.equal(batch.images, made(number).images)
