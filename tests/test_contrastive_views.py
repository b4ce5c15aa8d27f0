"""Pairs of views: the same image twice in neighbouring places, boxes that know each other, and a layer that learns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.augment.contrastive_views import Views
from data.augment.detection import Augmentation, augmentation_of
from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.detection import train_loader
from data.loading.stream import Stream
from data.loading.training import training_batches
from models.darknet import Darknet
from models.losses.criterion import make_criterion
from tests.painted import CFG
from utils.cfg import Config, parse_cfg
from utils.errors import UsageError
from utils.image import write_image
from utils.structures import Batch, ImageRecord, Targets, TrackedTargets

SIZE = (48, 64)
MOVED = Augmentation(jitter=0.2, flip=True)
COLOURED = Augmentation(hue=0.3, saturation=2.0, exposure=2.0)
BOXES = 3  # of each image


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Five images of one colour each with three boxes, whose labels go 0 1 0, 1 0 1 ..."""
    rng = np.random.default_rng(0)
    records = []
    for k in range(5):
        image = np.full((*SIZE, 3), rng.integers(60, 200, 3), np.uint8)
        image[4:20, 30:60] = rng.integers(0, 256, 3)
        write_image(tmp_path / f"{k}.png", image)
        boxes = np.float32([[4, 4, 30, 24], [30, 4, 60, 20], [10, 26, 40, 44]])
        labels = (np.arange(BOXES) + k) % 2
        records.append(ImageRecord(k, tmp_path / f"{k}.png", SIZE, boxes, labels, np.zeros(BOXES, bool)))
    return Dataset(tuple(records), ("even", "odd"), (1, 2), "made.json")


def load(
    dataset: Dataset, augmentation: Augmentation, views: Views | None, *, workers: int = 0, **more: object
) -> list[Batch]:
    options = {"batch": 4, "start": 0, "stop": 5, "seed": 3} | more
    stream = Stream(size_at=lambda minibatch: SIZE, **options)
    return list(train_loader(dataset, augmentation, stream, Loading(workers), views=views))


def batches_of(dataset: Dataset, config: Config, *, ranks: int = 1, **flags: float) -> Iterable[Batch]:
    augmentation = augmentation_of(config, SimpleNamespace(**flags))
    return training_batches(dataset, config, augmentation, Loading(0, ranks=ranks), start=0, seed=0)


def test_neighbours_show_the_same_image(dataset: Dataset) -> None:
    batches = load(dataset, MOVED, Views())
    names = [name for batch in batches for name in batch.names]
    assert names[::2] == names[1::2]
    assert sorted(names[:10:2]) == sorted(str(record.path) for record in dataset.records)  # an epoch, each one twice
    for batch in batches:
        assert any(not torch.equal(*pair) for pair in batch.images.unflatten(0, (-1, 2)))


def test_boxes_are_known_again(dataset: Dataset) -> None:
    """What a track stands for has its label and, without augmentation, its box, in whichever image it is."""
    for batch in load(dataset, Augmentation(), Views()):
        targets = batch.targets
        assert isinstance(targets, TrackedTargets)
        for image, name in enumerate(batch.names):
            record = next(one for one in dataset.records if str(one.path) == name)
            mine = targets.image_index == image
            assert targets.tracks[mine].tolist() == [BOXES * record.image_id + box for box in range(BOXES)]
            assert targets.labels[mine].tolist() == record.labels.tolist()
            assert torch.equal(targets.boxes[mine], torch.from_numpy(record.boxes))


def test_mosaics_and_mixups_of_a_pair_show_the_same_objects(dataset: Dataset) -> None:
    mixed = replace(MOVED, mosaic=0.5, mixup=0.5)
    batches = load(dataset, mixed, Views(), stop=10)
    assert any("+" in name for batch in batches for name in batch.names)
    shared = 0
    for batch in batches:
        assert batch.names[::2] == batch.names[1::2]
        tracks, labels = batch.targets.tracks, batch.targets.labels
        assert torch.equal(labels, (tracks % BOXES + tracks // BOXES) % 2)
        for first in range(0, 4, 2):
            one, other = (set(tracks[batch.targets.image_index == image].tolist()) for image in (first, first + 1))
            shared += len(one & other)
    assert shared > 20


@pytest.mark.parametrize(("augmentation", "same"), [(MOVED, Views(motion=False)), (COLOURED, Views(colour=False))])
def test_what_the_views_share(dataset: Dataset, augmentation: Augmentation, same: Views) -> None:
    for batch in load(dataset, augmentation, same):
        assert torch.equal(batch.images[::2], batch.images[1::2])
    assert any(not torch.equal(batch.images[::2], batch.images[1::2]) for batch in load(dataset, augmentation, Views()))


def test_any_worker_makes_the_same(dataset: Dataset) -> None:
    options = {"start": 2, "stop": 6, "largest": SIZE}
    for one, other in zip(
        load(dataset, MOVED, Views(), **options), load(dataset, MOVED, Views(), workers=1, **options), strict=True
    ):
        assert isinstance(other.targets, TrackedTargets) and torch.equal(one.images, other.images)
        assert all(torch.equal(*pair) for pair in zip(one.targets, other.targets, strict=True))


def test_without_views_nothing_is_tracked(dataset: Dataset) -> None:
    (batch,) = load(dataset, MOVED, None, stop=1)
    assert type(batch.targets) is Targets
    assert len(set(batch.names)) == 4


def with_contrastive(*keys: str) -> str:
    """The painted cfg, whose head stays and gets embeddings of four values for each of its two anchors."""
    layers = "[route]\nlayers=-3\n[convolutional]\nfilters=8\nsize=1\nactivation=linear\n[contrastive]\nyolo_layer=-3\n"
    net = "\n".join(("[net]", "contrastive=1", "contrastive_jit_flip=1", "contrastive_color=1", *keys))
    return CFG.replace("[net]", net) + layers


def test_the_cfg_asks_for_pairs(dataset: Dataset) -> None:
    config = parse_cfg(with_contrastive(), source="a.cfg")
    batch = next(iter(batches_of(dataset, config)))
    assert isinstance(batch.targets, TrackedTargets) and batch.names[::2] == batch.names[1::2]
    assert Views.from_config(parse_cfg(CFG).net) is None
    assert Views.from_config(parse_cfg(CFG.replace("[net]", "[net]\ncontrastive=1")).net) == Views(False, False)


def test_a_mini_batch_holds_a_pair(dataset: Dataset) -> None:
    config = parse_cfg(CFG.replace("subdivisions=2", "subdivisions=4\ncontrastive=1"))
    Views.from_config(config.net)
    with pytest.raises(UsageError, match=r"contrastive=1: batch=8 in subdivisions=4 leaves less than two images"):
        batches_of(dataset, config, ranks=2)


def test_the_contrastive_layer_learns_from_pairs(dataset: Dataset) -> None:
    """The embeddings get a gradient from what the loader makes, and none without pairs."""
    for text, learns in ((with_contrastive(), True), (with_contrastive().replace("contrastive=1", ""), False)):
        config = parse_cfg(text)
        torch.manual_seed(0)
        network = Darknet(config).train()
        criterion = make_criterion(network, "darknet")
        batch = next(iter(batches_of(dataset, config, mosaic=0.0)))
        criterion(network(batch.images / 255, batch.targets), batch.targets).total.backward()
        assert bool(network.layers[9].conv.weight.grad.any()) == learns
