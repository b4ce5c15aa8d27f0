"""data.loading.classification: mini-batches by their number, evaluation in order, what a scan leaves out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.augment.classification import LabelledAugmentation
from data.formats.class_folders import load_labelled
from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.classification import central_batches, central_input, labelled_batches
from tests.painted import write_classes
from utils.cfg import Config, load_cfg, with_net
from utils.errors import ImageError, UsageError
from utils.image import network_input
from utils.keyed_random import keyed_rng
from utils.structures import LabelledBatch

CONFIG = with_net(
    load_cfg("cifar"), cutmix=True, mosaic=True, batch=6, subdivisions=2, height=32, width=24, max_batches=2
)
AUGMENTATION = LabelledAugmentation.from_config(CONFIG.net)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path)


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return load_labelled(folder, "train")


def load(
    dataset: Dataset,
    augmentation: LabelledAugmentation = AUGMENTATION,
    *,
    config: Config = CONFIG,
    start: int = 0,
    seed: int = 0,
    **loading: object,
) -> list[LabelledBatch]:
    loading = Loading(**{"workers": 0, **loading})
    return list(labelled_batches(dataset, config, augmentation, loading, start=start, seed=seed))


def same(first: LabelledBatch, second: LabelledBatch) -> bool:
    return torch.equal(first.images, second.images) and torch.equal(first.truth, second.truth)


def test_batches_are_functions_of_their_number(dataset: Dataset) -> None:
    batches = load(dataset)
    assert [tuple(batch.images.shape) for batch in batches] == [(3, 3, 32, 24)] * 4
    assert batches[0].images.dtype == torch.uint8 and batches[0].truth.shape == (3, 2)
    for options in ({"workers": 2}, {"cache": "memory"}, {"start": 1}):
        again = load(dataset, **options)
        assert all(same(*pair) for pair in zip(batches[-len(again) :], again, strict=True))
    assert not same(batches[0], load(dataset, seed=1)[0])


def test_each_image_comes_once_an_epoch(dataset: Dataset) -> None:
    plain = replace(AUGMENTATION, mix=0.0)
    names = [
        name for batch in load(dataset, plain, config=with_net(CONFIG, batch=10, max_batches=1)) for name in batch.names
    ]
    assert sorted(names[:5]) == sorted(names[5:]) == [str(record.path) for record in dataset.records]
    assert names[:5] != names[5:]


def test_the_truth_is_the_folder(dataset: Dataset) -> None:
    plain = replace(AUGMENTATION, mix=0.0, label_smooth_eps=0.0)
    for batch in load(dataset, plain):
        assert [Path(name).parent.name for name in batch.names] == ["ab"[i] for i in batch.truth.argmax(1)]
        assert batch.truth.max() == 1


def test_mixed_images_are_named(dataset: Dataset) -> None:
    names = load(dataset, replace(AUGMENTATION, mix=1.0, mixes=("mosaic",)))[0].names
    assert all(name.count(" + ") == 3 for name in names)


def test_evaluation_goes_in_order(folder: Path) -> None:
    dataset = load_labelled(folder, "val")
    for workers in (0, 2):
        batches = list(central_batches(dataset, batch=2, size=(16, 16), loading=Loading(workers)))
        assert [len(images) for images, _ in batches] == [2, 1]
        assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1]
    assert batches[0][0].dtype == torch.float32 and batches[0][0].shape == (2, 3, 16, 16)


def test_processes_evaluate_mini_batches_in_turn(dataset: Dataset) -> None:
    """Of three mini-batches the first and the last go to one process, the second to the other."""
    whole, first, second = (
        list(central_batches(dataset, batch=2, size=(16, 16), loading=Loading(0, rank=rank, ranks=ranks)))
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    )
    for wanted, (images, labels) in zip(whole, (first[0], second[0], first[1]), strict=True):
        assert torch.equal(images, wanted[0]) and torch.equal(labels, wanted[1])
    assert (len(first), len(second)) == (2, 1)


def test_the_middle_of_an_image() -> None:
    """20x30 covers 10x10 as 10x15; of the 15 columns the first two and the last three are cut."""
    image = keyed_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    wanted, _ = network_input(image, (10, 15), letterbox=False)
    assert (central_input(image, (10, 10)) == wanted[:, :, 2:12]).all()
    upright, _ = network_input(np.ascontiguousarray(image.transpose(1, 0, 2)), (15, 10), letterbox=False)
    assert (central_input(image.transpose(1, 0, 2), (10, 10)) == upright[:, 2:12]).all()


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (3, 3), (10, 10)])
@pytest.mark.parametrize("size", [(10, 10), (8, 20)])
def test_any_image_fills_the_input(shape: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = central_input(np.full((*shape, 3), 51, np.uint8), size)
    assert pixels.shape == (3, *size) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, 0.2, rtol=1e-6)


def test_an_image_that_broke_meanwhile_is_one_line(dataset: Dataset, folder: Path) -> None:
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image"):
        load(dataset)
    with pytest.raises(ImageError, match="not an image"):
        list(central_batches(dataset, batch=2, size=(16, 16), loading=Loading(0)))


def test_nothing_to_learn_from(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"train: no images \(wanted at least one\)"):
        load(replace(dataset, records=()))


def test_nothing_is_mixed_in_the_last_part_of_a_run(dataset: Dataset) -> None:
    always = replace(AUGMENTATION, mix=1.0, close_mosaic=0.5)
    mixed = [" + " in name for batch in load(dataset, always) for name in batch.names]
    assert mixed == [True] * 6 + [False] * 6


def test_processes_share_each_mini_batch(dataset: Dataset) -> None:
    config = with_net(CONFIG, batch=8)
    whole = load(dataset, config=config)
    shares = [load(dataset, config=config, rank=rank, ranks=2) for rank in range(2)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part.names) for part in parts] == [2, 2]
        assert batch.names == parts[0].names + parts[1].names
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))
        assert torch.equal(batch.truth, torch.cat([part.truth for part in parts]))
    with pytest.raises(UsageError, match="batch=6 in subdivisions=2 does not divide among 2 processes"):
        load(dataset, ranks=2)
