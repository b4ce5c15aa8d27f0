"""Records -> samples: reads the image of a record, through a cache where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import get_worker_info

from utils.errors import DatasetError
from utils.image import printable, read_image, reduced
from utils.structures import ImageRecord, Sample, Size

NOT_READING = -1  # a worker that is between images
_REDUCTIONS = (8, 4, 2)  # that a JPEG decoder knows
_LONGEST_SIDE = 32766  # OpenCV's warp counts source pixels in 16 bits


@dataclass(frozen=True)
class Detail:
    """How finely images are read: those far larger than needed are decoded smaller, which is faster.

    It is a function of an image's size alone. If it were one of the crop that is drawn, as it could be, what a cache
    holds would not be what the next epoch needs.

    Attributes:
        needed: (H, W) pixels that a whole image must keep; None reads all.
    """

    needed: Size | None = None

    def reduction(self, size: Size) -> int:
        """1, 2, 4 or 8: how many times smaller an image of ``size`` (H, W) is read."""
        if self.needed is None:
            return 1
        fitting = min(side // least for side, least in zip(size, self.needed, strict=True))
        return next((reduction for reduction in _REDUCTIONS if reduction <= fitting), 1)

    def size(self, size: Size) -> Size:
        """(H, W) as which an image of ``size`` is read."""
        return reduced(size, self.reduction(size))


ALL_DETAIL = Detail()


class ImageCache(Protocol):
    """Keeps decoded images by their index; a miss is None."""

    def get(self, index: int) -> np.ndarray | None: ...
    def put(self, index: int, image: np.ndarray) -> None: ...


def check_size(record: ImageRecord, size: Size) -> None:
    """Raise DatasetError unless ``size`` (H, W), the decoded image's, is the annotated one and can be warped."""
    where = printable(record.path)
    if size != record.size:
        wanted, found = (f"{width}x{height}" for height, width in (record.size, size))
        raise DatasetError(f"{where}: image of {found} pixels (annotated as {wanted}); its boxes would be wrong")
    if max(size) > _LONGEST_SIDE:
        raise DatasetError(f"{where}: {max(size)} pixels long (at most {_LONGEST_SIDE}); scale or cut the image")


class SampleReader:
    """Reads the samples of a data set by their index, through a cache where there is one."""

    def __init__(
        self,
        records: Sequence[ImageRecord],
        cache: ImageCache | None = None,
        reading: Tensor | None = None,
        detail: Detail = ALL_DETAIL,
    ) -> None:
        """Prepare to read.

        Args:
            cache: of the same ``detail``.
            reading: int64 (workers,), shared; where each worker notes what it is reading.
        """
        self._records = records
        self._cache = cache
        self._reading = reading
        self._detail = detail

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``, image and boxes smaller where there is detail to spare; not to be written to.

        Raises:
            ImageError: the file does not decode.
            DatasetError: the image has another size than its annotations say.
        """
        record = self._records[index]
        reduction = self._detail.reduction(record.size)
        image = self._cache.get(index) if self._cache else None
        if image is None:
            image = self._read(index, reduction)
            self._check(record, image, reduction)
            if self._cache:
                self._cache.put(index, image)
        boxes = record.boxes if reduction == 1 else record.boxes / np.float32(reduction)
        return Sample(image, boxes, record.labels, record.crowd)

    @staticmethod
    def _check(record: ImageRecord, image: np.ndarray, reduction: int) -> None:
        size = image.shape[:2]
        matches = reduction > 1 and size == reduced(record.size, reduction)
        check_size(record, record.size if matches else tuple(side * reduction for side in size))

    def _read(self, index: int, reduction: int) -> np.ndarray:
        path = self._records[index].path
        if self._reading is None:
            return read_image(path, reduction=reduction)
        worker = get_worker_info()
        slot = worker.id if worker else 0
        self._reading.numpy()[slot] = index
        image = read_image(path, reduction=reduction)
        self._reading.numpy()[slot] = NOT_READING
        return image
