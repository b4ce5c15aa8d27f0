"""Mini-batches as pure functions of their number, whatever the workers; evaluation in order."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.augment.detection import Augmentation
from data.augment.photometric import default_photometric
from data.formats.dataset import Dataset
from data.loading import batch_loader
from data.loading.batch_loader import Loading, permutation
from data.loading.cache import MemoryCache
from data.loading.detection import eval_loader, train_loader
from data.loading.multi_scale import DynamicMinibatch, MultiScale
from data.loading.reader import Detail
from data.loading.stream import Stream
from utils.cfg.net import Net
from utils.errors import DatasetError, EnvironmentFault, ImageError, UsageError
from utils.image import network_input, read_image, write_image
from utils.structures import Batch, ImageRecord

EVERYTHING = Augmentation(
    0.3, 1.5, False, True, 0.1, 1.5, 1.5, 1, 10, 0.5, 0.3, photometric=default_photometric(strength=3), close_mosaic=0.5
)
CLOSING = replace(Net(), max_batches=12).closing  # the last half begins at mini-batch 6
SIZES = MultiScale((64, 96), factor=1.5, step=16, seed=3, every=2, subdivisions=2)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Seven noisy images of different sizes with one to three boxes."""
    rng = np.random.default_rng(0)
    records = []
    for k in range(7):
        size = (40 + 4 * k, 60 - 2 * k)
        path = tmp_path / f"{k}.png"
        write_image(path, rng.integers(0, 256, (*size, 3), np.uint8))
        boxes = np.float32([[5 + 2 * b, 4, 30 + b, 25 + b] for b in range(1 + k % 3)])
        labels, crowd = np.arange(len(boxes)), np.arange(len(boxes)) == 2
        records.append(ImageRecord(100 + k, path, size, boxes, labels, crowd))
    return Dataset(tuple(records), ("a", "b", "c"), (1, 2, 3), str(tmp_path / "made.json"))


def load(dataset: Dataset, start: int = 0, stop: int = 9, *, workers: int = 0, **options: object) -> list[Batch]:
    """Mini-batches of three; ``options`` are those of a stream, ``detail``, ``kept`` and ``context``."""
    reading = {key: options.pop(key) for key in ("detail", "kept") if key in options}
    loading = Loading(workers, context=options.pop("context", None))
    stream = Stream(**dict(batch=3, size_at=SIZES, start=start, stop=stop, seed=5, closing=CLOSING) | options)
    return list(train_loader(dataset, EVERYTHING, stream, loading, **reading))


def assert_same(first: Iterable[Batch], second: Iterable[Batch]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.names == other.names
        for a, b in zip((one.images, *one.targets), (other.images, *other.targets), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("largest", [None, SIZES.largest, (64, 64)])  # no slots; for all; for the smaller ones
def test_workers_do_not_matter(dataset: Dataset, workers: int, largest: tuple[int, int] | None) -> None:
    assert_same(load(dataset), load(dataset, workers=workers, largest=largest))


def test_spawned_workers_and_a_shared_cache_do_not_matter(dataset: Dataset) -> None:
    wanted = load(dataset, stop=3)
    assert_same(wanted, load(dataset, stop=3, workers=1, context="spawn", kept=MemoryCache(dataset), largest=(96, 144)))


def test_a_cache_of_images_read_smaller_does_not_matter(dataset: Dataset) -> None:
    detail = Detail((20, 20))
    wanted = load(dataset, stop=3, detail=detail)
    cache = MemoryCache(dataset, detail=detail)
    for workers in (0, 1, 0):
        assert_same(wanted, load(dataset, stop=3, detail=detail, kept=cache, workers=workers))
    assert not torch.equal(wanted[0].images, load(dataset, stop=1)[0].images)


def test_the_start_does_not_matter(dataset: Dataset) -> None:
    assert_same(load(dataset)[5:], load(dataset, start=5))


def test_the_size_of_a_mini_batch_does_not_matter(dataset: Dataset) -> None:
    streams = []
    for batch in (1, 3, 6):
        stream = Stream(batch, MultiScale((48, 32)), start=0, stop=18 // batch, seed=2)  # whose end is not known
        loader = train_loader(dataset, EVERYTHING, stream, Loading(0))
        streams.append(torch.cat([images for images, _, _ in loader]))
    assert torch.equal(streams[0], streams[1]) and torch.equal(streams[0], streams[2])


def test_partners_stand_near_in_the_order_of_the_images(dataset: Dataset) -> None:
    records = tuple(
        replace(dataset.records[k % 7], path=dataset.records[k % 7].path.with_stem(str(k))) for k in range(50)
    )
    for k, record in enumerate(records):
        shutil.copy(dataset.records[k % 7].path, record.path) if k >= 7 else None
    many = replace(dataset, records=records)
    stream = Stream(5, MultiScale((32, 32)), start=0, stop=20, seed=1)
    loader = train_loader(many, Augmentation(mosaic=1.0), stream, Loading(0))
    order = [str(records[k].path) for epoch in range(3) for k in permutation(1, epoch, 50)]
    pairs = set()
    for position, name in enumerate(name for batch in loader for name in batch.names):
        sources, around = name.split(" + "), order[position // 16 * 16 :][:16]
        assert order[position] in sources and set(sources) <= set(around)
        pairs.update((position % 16, around.index(source)) for source in sources)
    assert len(pairs) > 16 + 0.6 * 16 * 15  # of the places in a neighbourhood nearly all have met


def test_an_image_is_decoded_once_for_the_mosaics_around_it(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        "data.loading.reader.read_image", lambda path, **options: read.append(path) or read_image(path, **options)
    )
    stream = Stream(4, MultiScale((32, 32)), start=0, stop=8, seed=1)
    loader = train_loader(dataset, Augmentation(mosaic=1.0), stream, Loading(0))
    names = [name for batch in loader for name in batch.names]
    assert len(names) == 32 and len(read) <= 2 * 7  # each of seven images once a neighbourhood, of which there are two


def test_the_seed_matters(dataset: Dataset) -> None:
    assert load(dataset, stop=2)[0].names != load(dataset, stop=2, seed=6)[0].names


def test_nothing_is_drawn_from_global_generators(dataset: Dataset) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    load(dataset, stop=3)
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(numpy_state, np.random.get_state()[1])


def test_an_epoch_shows_every_image_once(dataset: Dataset) -> None:
    stream = Stream(2, MultiScale((32, 32)), start=0, stop=14, seed=0)
    batches = list(train_loader(dataset, Augmentation(), stream, Loading(0)))
    names = [name for batch in batches for name in batch.names]
    files = sorted(str(record.path) for record in dataset.records)
    epochs = [names[start : start + 7] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == files for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_fit_together(dataset: Dataset) -> None:
    for number, batch in enumerate(load(dataset)):
        images, targets, names = batch
        height, width = SIZES(number)
        assert images.shape == (3, 3, height, width) and images.dtype == torch.uint8 and len(names) == 3
        index, labels, boxes, crowd = targets
        assert [tensor.dtype for tensor in targets] == [torch.int64, torch.int64, torch.float32, torch.bool]
        assert len(index) == len(labels) == len(boxes) == len(crowd)
        assert (index.diff() >= 0).all() and (not len(index) or index.max() < 3)
        assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height, width, height])).all()


def test_mosaics_end_before_the_run(dataset: Dataset) -> None:
    sources = [name.count(" + ") for batch in load(dataset, stop=12) for name in batch.names]
    assert max(sources[: 6 * 3]) >= 3 and max(sources[6 * 3 :]) == 0


def test_images_without_boxes_are_kept(dataset: Dataset) -> None:
    empty = np.zeros(0, np.int64)
    bare = [replace(r, boxes=np.zeros((0, 4), np.float32), labels=empty, crowd=empty > 0) for r in dataset.records]
    batch = load(replace(dataset, records=tuple(bare)), stop=1)[0]
    assert batch.images.shape[0] == 3 and batch.targets.boxes.shape == (0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_line_with_its_name(dataset: Dataset, workers: int) -> None:
    dataset.records[3].path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"3\.png: not an image[^\n]*$"):
        load(dataset, workers=workers)


def test_a_wrong_size_is_refused(dataset: Dataset) -> None:
    records = tuple(replace(record, size=(1, 2)) for record in dataset.records)
    with pytest.raises(DatasetError, match=r"image of 60x40 pixels \(annotated as 2x1\)"):
        load(replace(dataset, records=(records[0],)))


def test_nothing_to_load(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"made\.json: 0 images in mini-batches of 3"):
        load(replace(dataset, records=()))
    with pytest.raises(UsageError, match="7 images in mini-batches of 0"):
        load(dataset, batch=0)
    with pytest.raises(UsageError, match="mini-batches of 0 images"):
        eval_loader(dataset, batch=0, size=(32, 32), letterbox=False, loading=Loading(0))


class KillingSize:
    """A size function that kills the worker which asks for mini-batch 2."""

    def __call__(self, minibatch: int) -> tuple[int, int]:
        if minibatch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return 32, 32


def test_a_dead_worker_is_reported(dataset: Dataset) -> None:
    death = r"(exited unexpectedly|killed by signal).*while reading .*fewer --workers"
    with pytest.raises(EnvironmentFault, match=death):
        load(dataset, workers=1, size_at=KillingSize())


def test_a_worker_that_dies_while_handing_over_is_reported(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(_loader: DataLoader) -> Iterator[None]:
        yield from ()
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(DataLoader, "__iter__", torn)
    with pytest.raises(EnvironmentFault, match=r"exited unexpectedly while reading no image; .*fewer --workers"):
        load(dataset, workers=0)


class SleepingSize:
    """A size function that takes long."""

    def __call__(self, minibatch: int) -> tuple[int, int]:
        time.sleep(4)
        return 32, 32


def test_a_hung_worker_is_reported(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loader, "_TIMEOUT", 1)
    with pytest.raises(EnvironmentFault, match=r"timed out after 1 seconds while reading no image"):
        load(dataset, workers=1, size_at=SleepingSize())
    assert multiprocessing.active_children() == []


def test_workers_end_with_a_loop_that_stops_early(dataset: Dataset) -> None:
    loader = train_loader(dataset, Augmentation(), Stream(1, SIZES, start=0, stop=50, seed=0), Loading(2))
    for _ in loader:
        assert len(multiprocessing.active_children()) == 2
        break
    assert multiprocessing.active_children() == []


class InterruptedSize:
    """A size function that sends its worker what Ctrl-C sends to all processes of a terminal."""

    def __call__(self, minibatch: int) -> tuple[int, int]:
        os.kill(os.getpid(), signal.SIGINT)
        return 32, 32


def test_workers_ignore_ctrl_c(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loader, "_TIMEOUT", 20)  # a worker that did not would never answer
    assert len(load(dataset, stop=3, workers=1, size_at=InterruptedSize())) == 3


def test_evaluation_goes_in_order_through_every_image(dataset: Dataset) -> None:
    for workers in (0, 2):
        batches = list(eval_loader(dataset, batch=3, size=(32, 48), letterbox=True, loading=Loading(workers)))
        assert [len(images) for images, _, _ in batches] == [3, 3, 1]
        records = [record for _, _, part in batches for record in part]
        assert [record.image_id for record in records] == [record.image_id for record in dataset.records]
        for images, letterboxes, part in batches:
            assert images.dtype == torch.float32
            for image, placed, record in zip(images, letterboxes, part, strict=True):
                wanted, wanted_place = network_input(read_image(record.path), (32, 48), letterbox=True)
                np.testing.assert_array_equal(image.numpy(), wanted)
                assert placed == wanted_place


def test_evaluation_of_a_bad_image_names_it(dataset: Dataset) -> None:
    dataset.records[3].path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"3\.png: empty file"):
        list(eval_loader(dataset, batch=3, size=(32, 48), letterbox=False, loading=Loading(1)))


def test_multi_scale_by_hand() -> None:
    # Darknet, random=1: 608 gives 480 to 896, 416 gives 320 to 608
    for side, lowest, highest in ((608, 480, 896), (416, 320, 608)):
        sizes = [MultiScale((side, side), 1.4, seed=1)(10 * period) for period in range(400)]
        assert min(sizes) == (lowest, lowest) and max(sizes) == (highest, highest)
        assert all(height % 32 == 0 and height == width for height, width in sizes)
        assert MultiScale((side, side), 1.4).largest == (highest, highest)


def test_multi_scale_changes_every_ten_iterations() -> None:
    scale = MultiScale((416, 416), 1.4, seed=1, subdivisions=4, max_batches=1000)
    sizes = [scale(minibatch) for minibatch in range(4000)]
    assert all(len(set(sizes[start : start + 40])) == 1 for start in range(0, 3600, 40))
    assert len(set(sizes)) > 5
    assert set(sizes[:40]) == set(sizes[-4 * 99 :]) == {scale.largest}


def test_multi_scale_keeps_each_axis_and_a_step() -> None:
    assert MultiScale((32, 64))(123) == (32, 64) == MultiScale((32, 64)).largest
    sizes = {MultiScale((32, 640), 3.0, seed=2)(10 * period) for period in range(100)}
    assert min(height for height, _ in sizes) == 32 and all(height % 32 == width % 32 == 0 for height, width in sizes)


def test_permutation_is_keyed_by_seed_and_epoch() -> None:
    orders = {permutation(seed, epoch, 50).tobytes() for seed in range(2) for epoch in range(3)}
    assert len(orders) == 6
    assert sorted(permutation(0, 0, 50)) == list(range(50))


@pytest.mark.parametrize("subdivisions", [1, 3])
def test_a_dynamic_mini_batch_holds_more_of_smaller_images(subdivisions: int) -> None:
    sizes = MultiScale((416, 416), 1.4, seed=1, subdivisions=subdivisions, max_batches=400)
    assert sizes.largest == (608, 608)
    positions = DynamicMinibatch(4, sizes, 400 * subdivisions)
    wanted = {608: 4, 416: 6, 320: 11}  # 4 * 608^2 / 416^2 = 8 -> int(6.4); 4 * 608^2 / 320^2 = 14 -> int(11.2)
    wanted[576] = 4  # 4 * 608^2 / 576^2 = 4, a fifth less would be fewer than the cfg's
    seen, following = set(), 0
    for minibatch in range(400 * subdivisions):
        held = positions(minibatch)
        assert held.start == following and len(held) >= 4
        side, following = sizes(minibatch)[0], held.stop
        assert len(held) == wanted.get(side, len(held))
        seen.add(side)
    assert seen >= wanted.keys()


def test_the_loader_fills_dynamic_mini_batches(dataset: Dataset) -> None:
    sizes = MultiScale((64, 64), 1.4, seed=1, subdivisions=2, every=1, max_batches=200)
    positions = DynamicMinibatch(2, sizes, 400)
    stream = Stream(2, sizes, start=0, stop=12, seed=0, positions=positions)
    batches = list(train_loader(dataset, Augmentation(), stream, Loading(0)))
    assert [len(batch.images) for batch in batches] == [len(positions(number)) for number in range(12)]
    assert len({len(batch.images) for batch in batches}) > 1
    again = next(iter(train_loader(dataset, Augmentation(), replace(stream, start=7, stop=8), Loading(0))))
    assert torch.equal(again.images, batches[7].images)
