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
from data.loading.classification import central_batches, central_input, labelled_batches, load_labelled_splits
from utils.cfg import load_cfg, with_net
from utils.errors import DatasetError, ImageError, UsageError
from utils.image import network_input, write_image
from utils.keyed_random import keyed_rng
from utils.structures import LabelledBatch

AUGMENTATION = LabelledAugmentation.from_config(with_net(load_cfg("cifar"), cutmix=True, mosaic=True).net)


def write_classes(root: Path) -> Path:
    """Five training and three validation images of two classes."""
    rng = keyed_rng(7)
    for place in ("train/a/0", "train/a/1", "train/b/2", "train/b/3", "train/b/4", "val/a/5", "val/b/6", "val/b/7"):
        path = root / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(0, 256, (20, 30, 3), np.uint8))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_classes(tmp_path)


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return load_labelled(folder, "train")


def load(dataset: Dataset, *, start: int = 0, stop: int = 4, **options: object) -> list[LabelledBatch]:
    options = {"augmentation": AUGMENTATION, "batch": 3, "size": (32, 24), "seed": 0, "workers": 0, **options}
    return list(labelled_batches(dataset, start=start, stop=stop, **options))


def same(first: LabelledBatch, second: LabelledBatch) -> bool:
    return torch.equal(first.images, second.images) and torch.equal(first.truth, second.truth)


def test_batches_are_functions_of_their_number(dataset: Dataset) -> None:
    batches = load(dataset)
    assert [tuple(batch.images.shape) for batch in batches] == [(3, 3, 32, 24)] * 4
    assert batches[0].images.dtype == torch.uint8 and batches[0].truth.shape == (3, 2)
    for options in ({"workers": 2}, {"cache": "memory"}, {"start": 2}):
        again = load(dataset, **options)
        assert all(same(*pair) for pair in zip(batches[-len(again) :], again, strict=True))
    assert not same(batches[0], load(dataset, seed=1)[0])


def test_each_image_comes_once_an_epoch(dataset: Dataset) -> None:
    plain = replace(AUGMENTATION, mix=0.0)
    names = [name for batch in load(dataset, augmentation=plain, batch=5, stop=2) for name in batch.names]
    assert sorted(names[:5]) == sorted(names[5:]) == [str(record.path) for record in dataset.records]
    assert names[:5] != names[5:]


def test_the_truth_is_the_folder(dataset: Dataset) -> None:
    plain = replace(AUGMENTATION, mix=0.0, label_smooth_eps=0.0)
    for batch in load(dataset, augmentation=plain):
        assert [Path(name).parent.name for name in batch.names] == ["ab"[i] for i in batch.truth.argmax(1)]
        assert batch.truth.max() == 1


def test_mixed_images_are_named(dataset: Dataset) -> None:
    names = load(dataset, augmentation=replace(AUGMENTATION, mix=1.0, mixes=("mosaic",)))[0].names
    assert all(name.count(" + ") == 3 for name in names)


def test_evaluation_goes_in_order(folder: Path) -> None:
    dataset = load_labelled(folder, "val")
    for workers in (0, 2):
        batches = list(central_batches(dataset, batch=2, size=(16, 16), workers=workers))
        assert [len(images) for images, _ in batches] == [2, 1]
        assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 1]
    assert batches[0][0].dtype == torch.float32 and batches[0][0].shape == (2, 3, 16, 16)


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


def test_a_scan_leaves_out_what_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(150):  # one bad image of more than a hundred is accepted
        (folder / f"train/a/more{number}.png").write_bytes((folder / "train/a/0.png").read_bytes())
    (folder / "train/a/bad.png").write_bytes(b"no image")
    train_set, val_set = load_labelled_splits(str(folder), names=None, check=True, workers=1)
    assert (len(train_set), len(val_set)) == (155, 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}/train: 156 images of 2 classes"
    assert lines[1] == "1 images cannot be used and are left out:" and "bad.png: " in lines[2]
    (folder / "val/a/bad.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"val: 1 of 4 images cannot be used \(at most 0%\)"):
        load_labelled_splits(str(folder), names=None, check=True, workers=1)
    assert len(load_labelled_splits(str(folder), names=None, check=False, workers=1)[1]) == 4


def test_names_from_a_file_decide_the_order(folder: Path) -> None:
    (folder / "my.names").write_text("b\na\n")
    train_set, val_set = load_labelled_splits(str(folder), names=str(folder / "my.names"), check=False, workers=1)
    assert train_set.names == val_set.names == ("b", "a")


def test_an_image_that_broke_meanwhile_is_one_line(dataset: Dataset, folder: Path) -> None:
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ImageError, match="not an image"):
        load(dataset)
    with pytest.raises(ImageError, match="not an image"):
        list(central_batches(dataset, batch=2, size=(16, 16), workers=0))


def test_nothing_to_learn_from(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=r"train: no images \(wanted at least one\)"):
        load(replace(dataset, records=()))
