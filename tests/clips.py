"""Small videos, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def numbered(index: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Uint8 (H, W, 3) whose grey tells its number (up to 99), with a white square in the top left corner."""
    image = np.full((height, width, 3), 40 + 2 * (index % 100), np.uint8)
    image[:16, :16] = 250
    return image


def number_of(image: np.ndarray) -> int:
    """The number that :func:`numbered` painted; the way to YUV and back may darken it by 1."""
    return round((float(image[-8:, -8:].mean()) - 39.5) / 2)


def write_clip(
    path: Path,
    frames: int = 20,
    *,
    rate: Fraction = Fraction(25),
    times: Sequence[Fraction] | None = None,
    size: tuple[int, int] = (48, 64),
    rotation: int = 0,
    codec: str = "libx264",
    **options: str,
) -> Path:
    """Write numbered frames at ``rate``, or at ``times`` in seconds."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = {"qp": "0"} if codec == "libx264" else {}
        stream.codec_context.time_base = Fraction(1, 90000) if times else 1 / rate
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(index, *size), format="rgb24")
            frame.pts = index if times is None else round(times[index] * 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
