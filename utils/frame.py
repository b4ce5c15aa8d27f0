"""One picture on its way from a source to the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Frame:
    """A picture and where it came from.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        source: the file or address.
        index: its number within that source.
        time: seconds since the first frame of a video, None where nobody knows.
    """

    image: np.ndarray
    source: str
    index: int = 0
    time: Fraction | None = None
