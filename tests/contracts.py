"""What transforms of samples have to keep, stated once for all of them.

The paint test: each box of a black image is painted in a channel of its own. Whatever then happens to image and boxes,
the pixels of a channel must end where the box ends.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from utils.structures import Sample, Size

_HALF = 127  # a pixel belongs to the box if most of it was painted


def painted_sample(size: Size, boxes: np.ndarray) -> Sample:
    """Up to three boxes (N, 4) xyxy of whole pixels, box k in channel k, on black; the label of box k is k."""
    image = np.zeros((*size, 3), np.uint8)
    for channel, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        image[top:bottom, left:right, channel] = 255
    count = len(boxes)
    return Sample(image, boxes.astype(np.float32), np.arange(count), np.arange(count) % 2 == 1)


def assert_painted(sample: Sample, *, tolerance: float = 1.5, smallest: float = 3.0) -> None:
    """Each box of at least ``smallest`` pixels ends where its colour does, within ``tolerance`` pixels.

    One pixel is the rounding to whole pixels, the half is interpolation's: 8-bit rounding decides which side an edge
    of half paint falls to.
    """
    for box, channel in zip(sample.boxes, sample.labels, strict=True):
        if min(box[2] - box[0], box[3] - box[1]) < smallest:
            continue
        rows, columns = np.nonzero(sample.image[..., channel] > _HALF)
        assert len(rows), f"box {box} of channel {channel} shows nothing"
        extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(box, extent, atol=tolerance, err_msg=f"channel {channel}")
    assert sample.image.dtype == np.uint8 and sample.boxes.dtype == np.float32


def assert_colours_have_boxes(sample: Sample) -> None:
    """No object is visible without a box, but for strips under one pixel, which are dropped: they paint one line."""
    longest_line = max(sample.image.shape[:2])
    for channel in set(range(3)) - set(sample.labels.tolist()):
        painted = (sample.image[..., channel] > _HALF).sum()
        assert painted <= longest_line, f"channel {channel} has paint but no box"


@st.composite
def painted_samples(draw: st.DrawFn, largest: int = 90) -> Sample:
    """Samples of 30 to ``largest`` pixels a side with one to three painted boxes that cover less than half of it."""
    height, width = draw(st.integers(30, largest)), draw(st.integers(30, largest))
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        w, h = draw(st.integers(6, width * 2 // 3)), draw(st.integers(6, height * 2 // 3))
        left, top = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
        boxes.append((left, top, left + w, top + h))
    return painted_sample((height, width), np.array(boxes))
