"""Slots: what travels in them, what does not, and when one is used again."""

from __future__ import annotations

import pickle
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from data.formats.dataset import Dataset
from data.loading.batch_loader import BatchLoader, minibatches_ahead, reading_marks
from data.loading.batch_slots import BatchSlots, InSlot
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


def sent(number: int, slots: BatchSlots, **changes: object) -> object:
    """What the worker sends for ``number``, which has been asked for."""
    return slots.put(number, made(number, slots)._replace(**changes))


def test_images_are_used_where_they_lie_and_their_slot_again_when_nothing_refers_to_them() -> None:
    slots = BatchSlots(1, 96)  # and three more
    asked = slots.asking(range(10, 99))
    kept = {}
    for number in [next(asked), next(asked)]:
        item = sent(number, slots)
        assert isinstance(item, InSlot) and item.rest.images is None
        kept[number] = slots.take(item, pin_memory=False)
        assert kept[number].names == (str(number),) and kept[number].images.stride() == made(number).images.stride()
        assert kept[number].images.data_ptr() == slots._slots[item.slot].data_ptr()
    view = kept.pop(10).images[1]  # a part keeps the whole
    seen = [sent(next(asked), slots).slot for _ in range(2)]
    assert len({*seen, 0, 1}) == 4 and (view == 10).all() and (kept[11].images == 11).all()
    del view
    assert sent(next(asked), slots).slot == 0


def test_where_all_slots_are_in_use_images_are_copied() -> None:
    slots = BatchSlots(2, 96)
    asked = slots.asking(range(40))
    under_way = [next(asked), next(asked)]
    kept = []
    while len(kept) < 30:  # as the loader does: ask for one more, then take the next
        under_way.append(next(asked))
        number = under_way.pop(0)
        kept.append((number, slots.take(sent(number, slots), pin_memory=False).images))
    assert all((images == number).all() for number, images in kept)
    places = {slot.data_ptr() for slot in slots._slots}
    assert [images.data_ptr() in places for _, images in kept] == [True] * 2 + [False] * 28


def test_a_slot_that_was_not_used_or_never_taken_is_free_again() -> None:
    slots = BatchSlots(2, 96)
    for number in slots.asking(range(20)):  # too large, each of them
        item = slots.put(number, made(number, slots, side=5))
        assert isinstance(item, Batch) and slots.take(item, pin_memory=False) is item
    for _ in range(9):
        asked = slots.asking(range(3))
        assert [next(asked), next(asked), next(asked)] == [0, 1, 2]
        slots.give_up()


def test_targets_travel_as_arrays_and_arrive_as_tensors() -> None:
    slots = BatchSlots(1, 96)
    targets = Targets(torch.arange(3), torch.tensor([2, 0, 1]), torch.rand(3, 4), torch.tensor([True, False, True]))
    item = pickle.loads(ForkingPickler.dumps(sent(next(slots.asking(range(1))), slots, targets=targets)))
    assert all(isinstance(part, np.ndarray) for part in item.rest.targets)
    arrived = slots.take(item, pin_memory=False).targets
    assert isinstance(arrived, Targets)
    for part, wanted in zip(arrived, targets, strict=True):
        torch.testing.assert_close(part, wanted, rtol=0, atol=0)
        part.zero_()  # memory of its own, that may be written to


@pytest.mark.parametrize("item", [made(1), made(1, BatchSlots(1, 96), side=5), ValueError("an error"), (1, 2)])
def test_what_does_not_lie_in_a_slot_travels_as_it_is(item: object) -> None:
    slots = BatchSlots(1, 96)
    number = next(slots.asking(range(1)))
    assert slots.put(number, item) is item and slots.take(item, pin_memory=False) is item


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("keep", [0, 1, 2, 3, 40])
def test_no_slot_is_written_to_while_its_images_are_kept(workers: int, keep: int) -> None:
    slots = BatchSlots(minibatches_ahead(workers), 96)
    loader = BatchLoader(Numbered(slots), range(5, 45), workers, reading_marks(workers), False, None, slots)
    kept: deque[tuple[int, Batch]] = deque(maxlen=keep)
    for number, batch in enumerate(loader, start=5):
        time.sleep(0.005)  # the workers run ahead as far as they can
        kept.append((number, batch))
        for then, earlier in [*kept, (number, batch)]:
            assert earlier.names == (str(then),) and torch.equal(earlier.images, made(then).images)
    assert number == 44
