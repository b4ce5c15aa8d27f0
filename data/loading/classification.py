"""Mini-batches of labelled images, of which a classifier learns and by which it is measured.

Order and randomness are keyed as in data/loading/detection.py: a mini-batch is a pure function of the seed and its
number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.augment.classification import LabelledAugmentation, labelled_picture
from data.augment.kernels import kernels
from data.formats.dataset import Dataset
from data.loading.batch_loader import AUGMENT, BatchLoader, Loading, permutation, reading_marks
from data.loading.cache import cache_for
from data.loading.multi_scale import MultiScale
from data.loading.rank_share import check_divisible
from data.loading.reader import ImageCache, SampleReader
from data.loading.stream import Stream
from utils.cfg import Config
from utils.errors import UsageError, UserError
from utils.image import network_input, printable
from utils.keyed_random import keyed_rng
from utils.structures import LabelledBatch, Size

_LONGEST_STRIP = 8  # an image longer than so many inputs is cut to its middle before it is scaled


def labelled_batches(
    dataset: Dataset, config: Config, augmentation: LabelledAugmentation, loading: Loading, *, start: int, seed: int
) -> Iterable[LabelledBatch]:
    """The mini-batches from iteration ``start`` to the cfg's last, each a pure function of the seed and its number.

    Raises:
        UsageError: no images, or a batch that does not divide among the processes.
        As :func:`data.loading.detection.train_loader` while iterating.
    """
    net = config.net
    check_divisible(net, loading.ranks)
    if len(dataset) == 0:
        raise UsageError(f"{dataset.source}: no images (wanted at least one)")
    stream = Stream(
        batch=net.batch // net.subdivisions,
        size_at=MultiScale((net.height, net.width)),
        start=start * net.subdivisions,
        stop=net.max_batches * net.subdivisions,
        seed=seed,
        closing=net.closing,
    )
    kept = cache_for(dataset, loading)
    kernels()  # once, before there are workers
    reading = reading_marks(loading.workers)
    batches = LabelledBatches(dataset, augmentation, stream, stream.order(loading), _reader(dataset, kept, reading))
    return BatchLoader(batches, stream.numbers, loading.workers, reading, loading.pin_memory, loading.context)


def central_batches(dataset: Dataset, *, batch: int, size: Size, loading: Loading) -> DataLoader:
    """Load every image once, in order, as Darknet validates a classifier.

    Of several processes each gets whole mini-batches in turn.

    Yields:
        float32 (B, 3, H, W) in [0, 1] and int64 (B,) labels; the last mini-batch may be smaller.
    """
    reading = reading_marks(loading.workers)
    batches = CentralBatches(dataset, batch, size, _reader(dataset, None, reading))
    numbers = range(loading.rank, math.ceil(len(dataset) / batch), loading.ranks)
    return BatchLoader(batches, numbers, loading.workers, reading, loading.pin_memory, loading.context)


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
    stream: Stream
    positions: Callable[[int], range]
    reader: SampleReader

    def __getitem__(self, minibatch: int) -> LabelledBatch | UserError:
        """Mini-batch number ``minibatch``, or what is wrong with it."""
        try:
            return self._make(minibatch)
        except UserError as error:
            return error

    def _make(self, minibatch: int) -> LabelledBatch:
        classes, positions, seed = len(self.dataset.names), self.positions(minibatch), self.stream.seed
        size, augmentation = self.stream.size_at(minibatch), self.augmentation.closed(minibatch, self.stream.closing)
        images = torch.empty((len(positions), 3, *size), dtype=torch.uint8)
        truth, names = torch.empty((len(positions), classes)), []
        for row, position in enumerate(positions):
            epoch, place = divmod(position, len(self.dataset))
            index = int(permutation(seed, epoch, len(self.dataset))[place])
            rng = keyed_rng(seed, AUGMENT, epoch, index)
            picture, used = labelled_picture(self.reader, index, classes, augmentation, size, rng)
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
