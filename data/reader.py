"""Records -> samples: reads the image of a record, through a cache where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import get_worker_info

from utils.errors import DatasetError
from utils.image import printable, read_image
from utils.structures import ImageRecord, Sample, Size

NOT_READING = -1  # a worker that is between images
_LONGEST_SIDE = 32766  # OpenCV's warp counts source pixels in 16 bits


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
        self, records: Sequence[ImageRecord], cache: ImageCache | None = None, reading: Tensor | None = None
    ) -> None:
        """Prepare to read.

        Args:
            reading: int64 (workers,), shared; where each worker notes what it is reading.
        """
        self._records = records
        self._cache = cache
        self._reading = reading

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``; its image must not be written to.

        Raises:
            ImageError: the file does not decode.
            DatasetError: the image has another size than its annotations say.
        """
        record = self._records[index]
        image = self._cache.get(index) if self._cache else None
        if image is None:
            image = self._read(index)
            check_size(record, image.shape[:2])
            if self._cache:
                self._cache.put(index, image)
        return Sample(image, record.boxes, record.labels, record.crowd)

    def _read(self, index: int) -> np.ndarray:
        if self._reading is None:
            return read_image(self._records[index].path)
        worker = get_worker_info()
        slot = worker.id if worker else 0
        self._reading.numpy()[slot] = index
        image = read_image(self._records[index].path)
        self._reading.numpy()[slot] = NOT_READING
        return image
