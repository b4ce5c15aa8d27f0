"""Caches of decoded images: same pixels, bounded, damage-proof."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.formats.dataset import Dataset
from data.loading import cache as cache_module
from data.loading.cache import DiskCache, MemoryCache, RecentImages, open_cache
from data.loading.reader import Detail, SampleReader
from utils.errors import EnvironmentFault
from utils.image import read_image, write_image
from utils.structures import ImageRecord

IMAGE_BYTES = 10 * 12 * 3


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five images of 12x10 pixels."""
    empty, boxes = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        write_image(path, np.full((10, 12, 3), k, np.uint8))
    records = tuple(ImageRecord(k, path, (10, 12), boxes, empty, empty > 0) for k, path in enumerate(paths))
    return Dataset(records, ("a",), (1,), str(tmp_path / "x.json"))


def make(kind: str, dataset: Dataset, budget: int | None = None) -> MemoryCache | DiskCache:
    folder = Path(dataset.source).parent / "cache"
    return open_cache(kind, dataset, folder=folder, budget=budget)[0]


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_first_reading_fills_the_cache(dataset: Dataset, kind: str) -> None:
    cache = make(kind, dataset)
    reader = SampleReader(dataset.records, cache)
    assert all(cache.get(k) is None for k in range(5))
    first = [reader[k].image for k in range(5)]
    for k in range(5):
        np.testing.assert_array_equal(cache.get(k), first[k])
        np.testing.assert_array_equal(reader[k].image, read_image(dataset.records[k].path))


def test_memory_serves_without_the_file_and_is_read_only(dataset: Dataset) -> None:
    cache = make("memory", dataset)
    reader = SampleReader(dataset.records, cache)
    reader[3]
    dataset.records[3].path.unlink()
    assert (reader[3].image == 3).all()
    with pytest.raises(ValueError, match="read-only"):
        cache.get(3)[:] = 0


def test_memory_is_shared(dataset: Dataset) -> None:
    cache = make("memory", dataset)
    assert cache._pixels.is_shared() and cache._filled.is_shared()


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_the_budget_is_kept_and_reported(dataset: Dataset, kind: str) -> None:
    cache = make(kind, dataset, budget=3 * IMAGE_BYTES + 5)
    reader = SampleReader(dataset.records, cache)
    assert all((reader[k].image == k).all() for k in range(5))
    assert [cache.get(k) is not None for k in range(5)] == [True, True, True, False, False]
    assert "3 of 5 images, 0.0 GiB; the others do not fit and are decoded each time" in cache.summary
    assert make(kind, dataset).summary.endswith("5 of 5 images, 0.0 GiB")
    assert make(kind, dataset, budget=0).get(0) is None


def test_memory_is_at_most_what_is_free(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2 * IMAGE_BYTES / 0.9 + 1))
    assert "2 of 5 images" in make("memory", dataset, budget=10**12).summary


def test_refused_memory_is_one_line(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("unable to allocate shared memory\nmore")

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(EnvironmentFault, match="image cache: unable to allocate shared memory; give a smaller budget"):
        MemoryCache(dataset)


def test_damaged_files_are_decoded_again(dataset: Dataset) -> None:
    cache = make("disk", dataset)
    reader = SampleReader(dataset.records, cache)
    reader[0]
    (file,) = (Path(dataset.source).parent / "cache").iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:-1], b"\0" * 50, whole.replace(b"|u1", b"|i1"), whole.replace(b"(10, 12", b"(12, 10")):
        file.write_bytes(damage)
        assert cache.get(0) is None
        assert (reader[0].image == 0).all()
        assert file.read_bytes() == whole


def test_a_changed_source_is_decoded_again(dataset: Dataset) -> None:
    reader = SampleReader(dataset.records, make("disk", dataset))
    reader[0]
    write_image(dataset.records[0].path, np.full((10, 12, 3), 99, np.uint8))
    os.utime(dataset.records[0].path, ns=(1, 1))
    assert (reader[0].image == 99).all()


def test_folder_that_cannot_be_made(dataset: Dataset) -> None:
    with pytest.raises(EnvironmentFault, match="/proc/no: no image cache there"):
        DiskCache(dataset, "/proc/no")


def test_choices(dataset: Dataset, tmp_path: Path) -> None:
    assert open_cache(None, dataset) == (None, "")
    cache, line = open_cache("disk", dataset)
    assert isinstance(cache, DiskCache) and str(tmp_path / ".yolov4_images") in line
    assert isinstance(open_cache("memory", replace(dataset, records=()))[0], MemoryCache)


def test_free_memory_is_sane() -> None:
    assert 0 < cache_module._free_memory() < 1 << 50


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_is_read_smaller_is_kept_smaller(dataset: Dataset, kind: str) -> None:
    detail, folder = Detail((5, 6)), Path(dataset.source).parent / "cache"
    cache, summary = open_cache(kind, dataset, folder=folder, budget=5 * 5 * 6 * 3, detail=detail)
    assert "5 of 5 images" in summary
    reader = SampleReader(dataset.records, cache, detail=detail)
    first = [reader[k].image for k in range(5)]
    for k in range(5):
        assert first[k].shape == (5, 6, 3)
        np.testing.assert_array_equal(reader[k].image, first[k])
        np.testing.assert_array_equal(cache.get(k), first[k])
    assert make(kind, dataset).get(0) is None  # at full size it has to be read


def test_recent_images_are_the_last_that_were_used(dataset: Dataset) -> None:
    recent = RecentImages(3)
    images = {k: np.full((10, 12, 3), k, np.uint8) for k in range(5)}
    for k in (0, 1, 2):
        recent.put(k, images[k])
    assert recent.get(0) is images[0]  # used again, so 1 is the oldest
    recent.put(3, images[3])
    assert [recent.get(k) is images[k] for k in range(4)] == [True, False, True, True]
    assert recent.get(1) is None and recent.get(4) is None


def test_recent_images_keep_their_budget_and_at_least_one() -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    recent = RecentImages(10, budget=2 * IMAGE_BYTES)
    for k in range(3):
        recent.put(k, image)
    assert [recent.get(k) is image for k in range(3)] == [False, True, True]
    small = RecentImages(10, budget=1)
    small.put(0, image)
    assert small.get(0) is image
    small.put(1, image)
    assert small.get(0) is None and small.get(1) is image


def test_recent_images_stand_in_front_of_a_cache(dataset: Dataset) -> None:
    behind = make("disk", dataset)
    reader = SampleReader(dataset.records, RecentImages(2, behind))
    assert (reader[3].image == 3).all() and (behind.get(3) == 3).all()
    shutil.rmtree(Path(dataset.source).parent / "cache")
    dataset.records[3].path.unlink()
    assert (reader[3].image == 3).all()  # neither the file nor the cache is asked again


def test_what_the_cache_behind_holds_is_kept_too(dataset: Dataset) -> None:
    behind = make("disk", dataset)
    SampleReader(dataset.records, behind)[2]
    recent = RecentImages(2, behind)
    first = recent.get(2)
    assert (first == 2).all() and recent.get(2) is first
