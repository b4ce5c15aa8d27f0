"""Decoded images kept for the next epoch, in memory that all workers share or in files, or for the next image only.

The first two are bounded: they take the first images of the data set up to their budget and leave the rest to be
decoded each time, and say so. Results never depend on a cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.reader import ALL_DETAIL, Detail, ImageCache
from utils.atomic import atomic_write
from utils.errors import EnvironmentFault
from utils.image import printable
from utils.memory import available_memory

_SHARED_MEMORY = Path("/dev/shm")
_SPARE = 0.1  # this part of what is free is left to others
_CHANNELS = 3


class MemoryCache:
    """Images in one block of memory shared by all workers, filled as they are first read.

    The block is sized from the records before any worker starts, so it works whether they fork or spawn. Two
    workers that read the same image first write the same bytes.
    """

    def __init__(self, dataset: Dataset, *, budget: int | None = None, detail: Detail = ALL_DETAIL) -> None:
        """Reserve memory for as many images of ``dataset`` as fit.

        Args:
            budget: bytes; default most of what is free.
            detail: how finely the images are read.

        Raises:
            EnvironmentFault: the system refuses the memory.
        """
        free = _free_memory()
        self._sizes = [detail.size(record.size) for record in dataset.records]
        self._ends = _fitting(self._sizes, free if budget is None else min(budget, free))
        try:
            self._pixels = torch.empty(self._ends[-1] if self._ends else 0, dtype=torch.uint8).share_memory_()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise EnvironmentFault(f"image cache: {reason}; give a smaller budget, or cache on disk") from error
        self._filled = torch.zeros(len(self._ends), dtype=torch.uint8).share_memory_()
        self.summary = _summary("in memory", len(self._ends), len(dataset), self._pixels.numel())

    def get(self, index: int) -> np.ndarray | None:
        """The image, read-only, or None if it is not here (yet)."""
        if index >= len(self._ends) or not self._filled.numpy()[index]:
            return None
        image = self._slot(index)
        image.flags.writeable = False
        return image

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep ``image``, if it is among those that fit."""
        if index < len(self._ends):
            self._slot(index)[:] = image
            self._filled.numpy()[index] = 1

    def _slot(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3), a view of the shared memory."""
        start = self._ends[index - 1] if index else 0
        return self._pixels.numpy()[start : self._ends[index]].reshape(*self._sizes[index], _CHANNELS)


class DiskCache:
    """Images as ``.npy`` files in a folder of their own, each written whole or not at all.

    A file is named by the path, length and modification time of its source, so a changed source is decoded anew.
    An image that is read smaller has that in its name too.
    """

    def __init__(
        self, dataset: Dataset, folder: str | Path, *, budget: int | None = None, detail: Detail = ALL_DETAIL
    ) -> None:
        """Prepare ``folder``, made if it is missing.

        Args:
            budget: bytes; default most of what is free on that disk.
            detail: how finely the images are read.

        Raises:
            EnvironmentFault: the folder cannot be made.
        """
        self._folder = Path(folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = int(shutil.disk_usage(self._folder).free * (1 - _SPARE))
        except OSError as error:
            raise EnvironmentFault(f"{printable(folder)}: no image cache there: {error.strerror}") from error
        free += sum(file.stat().st_size for file in self._folder.glob("*.npy"))
        self._records, self._detail = dataset.records, detail
        ends = _fitting(
            [detail.size(record.size) for record in self._records], free if budget is None else min(budget, free)
        )
        self._count = len(ends)
        self.summary = _summary(f"in {printable(folder)}", len(ends), len(dataset), ends[-1] if ends else 0)

    def get(self, index: int) -> np.ndarray | None:
        """The image, or None if it is not here (yet) or its file is damaged."""
        if index >= self._count:
            return None
        try:
            image = np.load(self._file(index), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        shape = (*self._detail.size(self._records[index].size), _CHANNELS)
        return image if image.dtype == np.uint8 and image.shape == shape else None

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep ``image``, if it is among those that fit."""
        if index < self._count:
            with atomic_write(self._file(index)) as file:
                np.save(file, image)

    def _file(self, index: int) -> Path:
        path = self._records[index].path
        status = path.stat()
        key = b"%s|%d|%d" % (os.fsencode(path.resolve()), status.st_size, status.st_mtime_ns)
        reduction = self._detail.reduction(self._records[index].size)
        suffix = f"_{reduction}" if reduction > 1 else ""
        return self._folder / f"{hashlib.sha256(key).hexdigest()[:32]}{suffix}.npy"


class RecentImages:
    """The last images that this process read, for those that need them again soon; in front of another cache."""

    def __init__(self, count: int, behind: ImageCache | None = None, *, budget: int = 2**27) -> None:
        """Keep up to ``count`` images, of ``budget`` bytes together but at least one."""
        self._count, self._behind, self._budget = count, behind, budget
        self._images: OrderedDict[int, np.ndarray] = OrderedDict()

    def get(self, index: int) -> np.ndarray | None:
        """The image, not to be written to, or None if it is neither here nor behind."""
        image = self._images.get(index)
        if image is not None:
            self._images.move_to_end(index)
        elif self._behind is not None and (image := self._behind.get(index)) is not None:
            self._keep(index, image)
        return image

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep ``image``, here and behind."""
        self._keep(index, image)
        if self._behind is not None:
            self._behind.put(index, image)

    def _keep(self, index: int, image: np.ndarray) -> None:
        self._images[index] = image
        held = sum(kept.nbytes for kept in self._images.values())
        while len(self._images) > 1 and (held > self._budget or len(self._images) > self._count):
            held -= self._images.popitem(last=False)[1].nbytes


def open_cache(
    kind: Literal["memory", "disk"] | None,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    budget: int | None = None,
    detail: Detail = ALL_DETAIL,
) -> tuple[MemoryCache | DiskCache | None, str]:
    """The cache a ``--cache`` flag names, and a line that says how much of the data set it holds.

    Args:
        folder: where the files of "disk" go; default beside the annotations.
        detail: how finely the images are read.
    """
    if kind is None:
        return None, ""
    if kind == "memory":
        cache: MemoryCache | DiskCache = MemoryCache(dataset, budget=budget, detail=detail)
    else:
        folder = folder or Path(dataset.source).parent / ".yolov4_images"
        cache = DiskCache(dataset, folder, budget=budget, detail=detail)
    return cache, cache.summary


def cache_for(dataset: Dataset, loading: Loading, detail: Detail = ALL_DETAIL) -> ImageCache | None:
    """The cache ``loading`` asks for; what it holds is printed. Processes that work together share the memory."""
    budget = available_memory() // loading.ranks if loading.cache == "memory" else None
    cache, note = open_cache(loading.cache, dataset, budget=budget, detail=detail)
    if note:
        print(note)
    return cache


def _fitting(sizes: list[tuple[int, int]], budget: int) -> list[int]:
    """Where each image ends in a block of at most ``budget`` bytes, for as many as fit."""
    ends = accumulate(height * width * _CHANNELS for height, width in sizes)
    return [end for end in ends if end <= budget]


def _free_memory() -> int:
    """Bytes of memory that may be taken: of the machine, and of the shared memory the workers see."""
    free = available_memory()
    if _SHARED_MEMORY.is_dir():
        free = min(free, shutil.disk_usage(_SHARED_MEMORY).free)
    return int(free * (1 - _SPARE))


def _summary(where: str, fitting: int, count: int, size: int) -> str:
    line = f"image cache {where}: {fitting:,} of {count:,} images, {size / 2**30:.1f} GiB"
    return line if fitting == count else f"{line}; the others do not fit and are decoded each time"
