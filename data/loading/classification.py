"""What a classifier learns from and is measured on: checked images, and mini-batches of them by their number.

Order and randomness are keyed as in data/loading/detection.py: a mini-batch is a pure function of the seed and its
number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.augment.classification import LabelledAugmentation, labelled_picture
from data.augment.kernels import kernels
from data.formats.class_folders import load_labelled
from data.formats.dataset import Dataset
from data.loading.batch_loader import AUGMENT, BatchLoader, permutation, reading_marks
from data.loading.cache import open_cache
from data.loading.reader import ImageCache, SampleReader
from data.scan import scan
from utils.errors import UsageError, UserError
from utils.image import network_input, printable
from utils.keyed_random import keyed_rng
from utils.names import read_names
from utils.structures import LabelledBatch, Size

_LONGEST_STRIP = 8  # an image longer than so many inputs is cut to its middle before it is scaled


def load_labelled_splits(path: str, *, names: str | None, check: bool, workers: int) -> tuple[Dataset, Dataset]:
    """The training and the validation images of a classifier.

    Args:
        path: what ``--data`` names.
        names: a file of class names to use in place of the data set's own.
        check: look at every image first; what cannot be used is printed and left out.
        workers: threads that do it.
    """
    train_set = load_labelled(path, "train", names=read_names(names) if names else None)
    val_set = load_labelled(path, "val", names=train_set.names)
    if check:
        return checked(train_set, workers), checked(val_set, workers)
    return train_set, val_set


def checked(dataset: Dataset, workers: int) -> Dataset:
    """The data set without the images that cannot be used, which are printed."""
    report = scan(dataset, workers=workers, progress=True)
    print(f"{printable(dataset.source)}: {len(dataset):,} images of {len(dataset.names):,} classes")
    for line in report.faults():
        print(line)
    return report.dataset


def labelled_batches(
    dataset: Dataset,
    augmentation: LabelledAugmentation,
    *,
    batch: int,
    size: Size,
    start: int,
    stop: int,
    seed: int,
    workers: int,
    cache: str | None = None,
) -> DataLoader:
    """Load training mini-batches number ``start`` to ``stop - 1`` as :class:`LabelledBatch`.

    Args:
        batch: images in a mini-batch.
        size: (H, W) of the network input.
        workers: processes; 0 loads in this one. The batches are the same bytes for any number.
        cache: see `data.loading.cache.open_cache`.

    Raises:
        UsageError: no images.
        As :func:`data.loading.detection.train_loader` while iterating.
    """
    if len(dataset) == 0:
        raise UsageError(f"{dataset.source}: no images (wanted at least one)")
    images, note = open_cache(cache, dataset)
    if note:
        print(note)
    kernels()  # once, before there are workers
    reading = reading_marks(workers)
    batches = LabelledBatches(dataset, augmentation, batch, size, seed, _reader(dataset, images, reading))
    return BatchLoader(batches, range(start, stop), workers, reading, False, None)


def central_batches(dataset: Dataset, *, batch: int, size: Size, workers: int) -> DataLoader:
    """Load every image once, in order, as Darknet validates a classifier.

    Yields:
        float32 (B, 3, H, W) in [0, 1] and int64 (B,) labels; the last mini-batch may be smaller.
    """
    reading = reading_marks(workers)
    batches = CentralBatches(dataset, batch, size, _reader(dataset, None, reading))
    return BatchLoader(batches, range(math.ceil(len(dataset) / batch)), workers, reading, False, None)


def central_input(image: np.ndarray, size: Size) -> np.ndarray:
    """The middle of an image scaled to cover ``size`` (H, W): validate_classifier_single's resize_min and crop_image.

    Args:
        image: uint8 (H, W, 3) RGB.

    Returns:
        float32 (3, H, W) in [0, 1].
    """
    height, width = size
    image = _middle(image, int(_LONGEST_STRIP * max(image.shape[1] * height / width, 1)), 0)
    image = _middle(image, int(_LONGEST_STRIP * max(image.shape[0] * width / height, 1)), 1)
    in_height, in_width = image.shape[:2]
    if in_width * height < in_height * width:
        covering = (in_height * width // in_width, width)
    else:
        covering = (height, in_width * height // in_height)
    pixels, _ = network_input(image, covering, letterbox=False)
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    return np.ascontiguousarray(pixels[:, top : top + height, left : left + width])


def _middle(image: np.ndarray, longest: int, axis: int) -> np.ndarray:
    spare = max(0, image.shape[axis] - longest)
    return np.take(image, range(spare // 2, spare // 2 + image.shape[axis] - spare), axis) if spare else image


def _reader(dataset: Dataset, cache: ImageCache | None, reading: torch.Tensor) -> SampleReader:
    return SampleReader(dataset.records, cache, reading)


@dataclass(frozen=True)
class LabelledBatches(TorchDataset):
    """Training mini-batches by their number; what the workers hold."""

    dataset: Dataset
    augmentation: LabelledAugmentation
    batch: int
    size: Size
    seed: int
    reader: SampleReader

    def __getitem__(self, minibatch: int) -> LabelledBatch | UserError:
        """Mini-batch number ``minibatch``, or what is wrong with it."""
        try:
            return self._make(minibatch)
        except UserError as error:
            return error

    def _make(self, minibatch: int) -> LabelledBatch:
        classes, augmentation = len(self.dataset.names), self.augmentation.closed(minibatch)
        images = torch.empty((self.batch, 3, *self.size), dtype=torch.uint8)
        truth, names = torch.empty((self.batch, classes)), []
        for row in range(self.batch):
            epoch, place = divmod(minibatch * self.batch + row, len(self.dataset))
            index = int(permutation(self.seed, epoch, len(self.dataset))[place])
            rng = keyed_rng(self.seed, AUGMENT, epoch, index)
            picture, used = labelled_picture(self.reader, index, classes, augmentation, self.size, rng)
            cv2.split(picture.image, list(images[row].numpy()))
            truth[row] = torch.from_numpy(picture.truth)
            names.append(" + ".join(printable(self.dataset.records[i].path) for i in used))
        return LabelledBatch(images, truth, tuple(names))


@dataclass(frozen=True)
class CentralBatches(TorchDataset):
    """Mini-batches of whole images, by their number."""

    dataset: Dataset
    batch: int
    size: Size
    reader: SampleReader

    def __getitem__(self, minibatch: int) -> tuple[torch.Tensor, torch.Tensor] | UserError:
        """Mini-batch number ``minibatch``, or what is wrong with it."""
        indices = range(len(self.dataset))[minibatch * self.batch : (minibatch + 1) * self.batch]
        try:
            samples = [self.reader[index] for index in indices]
        except UserError as error:
            return error
        images = torch.from_numpy(np.stack([central_input(sample.image, self.size) for sample in samples]))
        return images, torch.tensor([int(sample.labels[0]) for sample in samples])
