"""Slots: what travels in them, what does not, and when one is used again."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from data.batch_loader import BatchLoader, reading_marks, slots_needed
from data.batch_slots import BatchSlots, InSlot
from data.dataset import Dataset
from utils.structures import Batch, Targets

NO_TARGETS = Targets(*(torch.zeros(0) for _ in range(4)))
DATASET = Dataset((), (), (), "none")


def made(number: int, slots: BatchSlots | None = None, side: int = 4) -> Batch:
    size = (2, side, side, 3)
    images = slots.room(number, size) if slots else torch.empty(size, dtype=torch.uint8)
    return Batch(images.fill_(number).permute(0, 3, 1, 2), NO_TARGETS, (str(number),))


@dataclass(frozen=True)
class Numbered:
    """Mini-batches full of their number, late every third time."""

    slots: BatchSlots
    dataset: Dataset = DATASET

    def __getitem__(self, number: int) -> Batch:
        time.sleep(0.02 * (number % 3 == 0))
        return made(number, self.slots)


def test_what_is_put_is_taken_in_memory_of_its_own() -> None:
    slots = BatchSlots(2, 96)
    sent = slots.put(3, made(3, slots))
    assert isinstance(sent, InSlot) and sent.slot == 1 and sent.rest.images is None
    taken = slots.take(sent, pin_memory=False)
    made(5, slots)  # the same slot
    assert torch.equal(taken.images, made(3).images) and taken.images.stride() == made(3).images.stride()
    assert taken.names == ("3",)


def test_targets_travel_as_arrays_and_arrive_as_tensors() -> None:
    slots = BatchSlots(1, 96)
    targets = Targets(torch.arange(3), torch.tensor([2, 0, 1]), torch.rand(3, 4), torch.tensor([True, False, True]))
    sent = pickle.loads(ForkingPickler.dumps(slots.put(0, made(0, slots)._replace(targets=targets))))
    assert all(isinstance(part, np.ndarray) for part in sent.rest.targets)
    arrived = slots.take(sent, pin_memory=False).targets
    assert isinstance(arrived, Targets)
    for part, wanted in zip(arrived, targets, strict=True):
        torch.testing.assert_close(part, wanted, rtol=0, atol=0)
        part.zero_()  # memory of its own, that may be written to


@pytest.mark.parametrize("item", [made(1), made(1, BatchSlots(1, 96), side=5), ValueError("an error"), (1, 2)])
def test_what_does_not_lie_in_a_slot_travels_as_it_is(item: object) -> None:
    slots = BatchSlots(1, 96)
    assert slots.put(0, item) is item and slots.take(item, pin_memory=False) is item


def test_what_does_not_fit_is_made_elsewhere() -> None:
    slots = BatchSlots(1, 96)
    assert isinstance(slots.put(0, made(0, slots)), InSlot)
    assert isinstance(slots.put(0, made(0, slots, side=5)), Batch)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_slot_is_written_to_before_it_is_read(workers: int) -> None:
    slots = BatchSlots(slots_needed(workers), 96)
    loader = BatchLoader(Numbered(slots), range(5, 45), workers, reading_marks(workers), False, None, slots)
    kept = []
    for batch in loader:
        time.sleep(0.005)  # the workers run ahead as far as they can
        kept.append(batch)
    assert len(kept) == 40
    for number, batch in enumerate(kept, start=5):
        assert batch.names == (str(number),) and torch.equal(batch.images, made(number).images)
