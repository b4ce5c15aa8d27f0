"""Mini-batches for training and evaluation.

Training is one endless stream of positions. Position p is image ``permutation(seed, epoch)[p % N]`` of epoch
``p // N``, mini-batch i holds positions i*B to i*B+B-1 (but see ``data.loading.multi_scale.DynamicMinibatch``), and
every random choice is keyed by (seed, purpose, epoch, index). So a mini-batch is a pure function of its number: the
worker that makes it and where the run started do not matter.

The partners in a mosaic or mixup are drawn among the images of neighbouring positions. These are as random as any, the
order being so, and a worker has most of them at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.augment.contrastive_views import TrackedSamples, Views, tracked
from data.augment.detection import Augmentation, Samples, augmented_sample
from data.augment.kernels import kernels
from data.formats.dataset import Dataset
from data.loading.batch_loader import AUGMENT, BatchLoader, Loading, minibatches_ahead, permutation, reading_marks
from data.loading.batch_slots import BatchSlots
from data.loading.cache import RecentImages
from data.loading.reader import ALL_DETAIL, Detail, ImageCache, SampleReader
from data.loading.stream import Stream
from utils.errors import UsageError, UserError
from utils.image import network_input, printable
from utils.keyed_random import keyed_rng
from utils.structures import Batch, ImageRecord, Letterbox, Sample, Size, Targets

_NEIGHBOURS = 16  # positions in a row whose images are partners of each other

EvalBatch = tuple[torch.Tensor, list[Letterbox], list[ImageRecord]]


def train_loader(
    dataset: Dataset,
    augmentation: Augmentation,
    stream: Stream,
    loading: Loading,
    *,
    kept: ImageCache | None = None,
    detail: Detail = ALL_DETAIL,
    views: Views | None = None,
) -> DataLoader:
    """Load the training mini-batches of a ``stream`` as :class:`Batch`.

    Where their ``largest`` size is known, workers are faster: images travel in memory that is used again, see
    `data.loading.batch_slots`.

    Args:
        kept: decoded images, see `data.loading.cache.cache_for`. Each worker keeps the last few by itself.
        detail: how finely images are read; that of ``kept`` too.
        views: let neighbouring positions hold two views of an image, and the targets tell which boxes are the same.

    Raises:
        UsageError: no images, or a mini-batch of none.
        DatasetError, ImageError: while iterating, an image that cannot be used.
        EnvironmentFault: while iterating, a worker that died or hung, with the files that were being read.
    """
    batch, workers, largest = stream.batch, loading.workers, stream.largest
    if len(dataset) == 0 or batch < 1:
        raise UsageError(f"{dataset.source}: {len(dataset)} images in mini-batches of {batch} (wanted at least 1 of 1)")
    kernels()  # once, before there are workers
    reading = reading_marks(workers)
    reader = SampleReader(dataset.records, RecentImages(_NEIGHBOURS, kept), reading, detail)
    samples = TrackedSamples(reader, dataset.records, len(dataset.names)) if views else reader
    slots = BatchSlots(minibatches_ahead(workers), batch * 3 * math.prod(largest)) if workers and largest else None
    batches = TrainBatches(dataset, augmentation, stream, stream.order(loading), samples, slots, views)
    return BatchLoader(batches, stream.numbers, workers, reading, loading.pin_memory, loading.context, slots)


def eval_loader(dataset: Dataset, *, batch: int, size: Size, letterbox: bool, loading: Loading) -> DataLoader:
    """Load every image once, in order, as Darknet's inference sees it.

    Of several processes each gets whole mini-batches in turn, so that what is found in an image does not depend on
    their number.

    Yields:
        float32 (B, 3, H, W) in [0, 1], the letterboxes, the records; the last mini-batch may be smaller.

    Raises:
        As :func:`train_loader`.
    """
    if batch < 1:
        raise UsageError(f"{dataset.source}: mini-batches of {batch} images (wanted at least 1)")
    reading = reading_marks(loading.workers)
    batches = EvalBatches(dataset, batch, size, letterbox, SampleReader(dataset.records, None, reading))
    numbers = range(loading.rank, math.ceil(len(dataset) / batch), loading.ranks)
    return BatchLoader(batches, numbers, loading.workers, reading, loading.pin_memory, loading.context)


@dataclass(frozen=True)
class TrainBatches(TorchDataset):
    """Mini-batches by their number; what the workers hold."""

    dataset: Dataset
    augmentation: Augmentation
    stream: Stream
    positions: Callable[[int], range]
    samples: Samples
    slots: BatchSlots | None = None
    views: Views | None = None

    def __getitem__(self, minibatch: int) -> Batch | UserError:
        """Mini-batch number ``minibatch``; an error is returned, because raising would wrap it in a traceback."""
        try:
            return self._make(minibatch)
        except UserError as error:
            return error

    def _make(self, minibatch: int) -> Batch:
        size, augmentation = self.stream.size_at(minibatch), self.augmentation.closed(minibatch, self.stream.closing)
        positions = self.positions(minibatch)
        shape = (len(positions), *size, 3)
        images = self.slots.room(minibatch, shape) if self.slots else torch.empty(shape, dtype=torch.uint8)
        samples, names = [], []
        for image, position in zip(images.numpy(), positions, strict=True):
            sample, used = self._sample(position, augmentation, image)
            samples.append(sample)
            names.append(" + ".join(printable(self.dataset.records[i].path) for i in used))
        truth = _targets(samples)
        targets = tracked(truth, len(self.dataset.names)) if self.views else truth
        return Batch(images.permute(0, 3, 1, 2), targets, tuple(names))

    def _sample(self, position: int, augmentation: Augmentation, out: np.ndarray) -> tuple[Sample, tuple[int, ...]]:
        """The image at a position of the stream, made in ``out`` (H, W, 3), and the indices of its sources."""
        source, view = self.views.source(position) if self.views else (position, 0)
        key = (self.stream.seed, AUGMENT, source // len(self.dataset), self._index(source))
        draws = self.views.draws(key, view) if self.views else keyed_rng(*key)
        neighbours = _Neighbours(self.samples, self._index, source - source % _NEIGHBOURS)
        place, size = source % _NEIGHBOURS, out.shape[:2]
        sample, used = augmented_sample(neighbours, place, augmentation, size, draws, out)
        return sample, tuple(neighbours.index(place) for place in used)

    def _index(self, source: int) -> int:
        """Which image of the data set stands at a position of the stream, views not counted."""
        epoch, place = divmod(source, len(self.dataset))
        return int(permutation(self.stream.seed, epoch, len(self.dataset))[place])


class _Neighbours:
    """The samples at a few positions in a row, from ``first`` on."""

    def __init__(self, samples: Samples, index_at: Callable[[int], int], first: int) -> None:
        self._samples, self._index_at, self._first = samples, index_at, first

    def __len__(self) -> int:
        return _NEIGHBOURS

    def __getitem__(self, place: int) -> Sample:
        return self._samples[self.index(place)]

    def index(self, place: int) -> int:
        """The index in the data set of the sample at ``place``."""
        return self._index_at(self._first + place)


@dataclass(frozen=True)
class EvalBatches(TorchDataset):
    """Mini-batches of images as inference sees them, by their number."""

    dataset: Dataset
    batch: int
    size: Size
    letterbox: bool
    reader: SampleReader

    def __getitem__(self, minibatch: int) -> EvalBatch | UserError:
        """Mini-batch number ``minibatch``, or what is wrong with it."""
        indices = range(len(self.dataset))[minibatch * self.batch : (minibatch + 1) * self.batch]
        images = torch.empty((len(indices), 3, *self.size))
        letterboxes = []
        try:
            for row, index in enumerate(indices):
                pixels, placed = network_input(self.reader[index].image, self.size, letterbox=self.letterbox)
                images[row] = torch.from_numpy(pixels)
                letterboxes.append(placed)
        except UserError as error:
            return error
        return images, letterboxes, [self.dataset.records[index] for index in indices]


def _targets(samples: Sequence[Sample]) -> Targets:
    counts = [len(sample.boxes) for sample in samples]
    return Targets(
        torch.from_numpy(np.repeat(np.arange(len(samples)), counts)),
        torch.from_numpy(np.concatenate([sample.labels for sample in samples])),
        torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
        torch.from_numpy(np.concatenate([sample.crowd for sample in samples])),
    )
