"""Pictures from image files and videos, one after the other."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import av
import numpy as np

from utils.errors import ImageError, InputError
from utils.image import printable, read_image

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_USUAL_RATE, _HIGHEST_RATE = Fraction(25), 1000


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


@dataclass
class ImageFiles:
    """Image files in order; one that cannot be read is noted in ``faults``, and the others go on."""

    paths: Sequence[Path]
    faults: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.paths[0].stem if len(self.paths) == 1 else self.paths[0].parent.name or "images"

    @property
    def length(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Frame]:
        for path in self.paths:
            try:
                image = read_image(path)
            except ImageError as error:
                self.faults.append(str(error))
                continue
            yield Frame(image, str(path))


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says, made sensible.

    Attributes:
        rate: frames per second; 25 with a warning where the header says nothing sensible.
        time_base: unit of the times in seconds; None: the times are worthless, frames follow each other at ``rate``.
        frames: the number of frames that is promised, None where none is.
        duration: the promised time in seconds, 0 where none is.
        pixel_aspect: width by height of a pixel.
    """

    rate: Fraction
    time_base: Fraction | None
    frames: int | None
    duration: Fraction
    pixel_aspect: Fraction


@dataclass
class VideoFile:
    """A video file (or the address of one), decoded upright, with the times of its frames.

    What cannot be decoded is passed over and noted in ``faults``.
    """

    path: str
    faults: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def length(self) -> int | None:
        return self.info.frames

    @cached_property
    def info(self) -> VideoInfo:
        """The header, read once.

        Raises:
            InputError: no video, or not one frame of it can be decoded (a text file may pass for a video until then).
        """
        with self._open() as container:
            stream = container.streams.video[0]
            rate, time_base = _timing(stream, self.path)
            duration = Fraction(container.duration or 0, av.time_base)
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            first = next(_decoded(container, []), None)
            if first is None:
                raise InputError(f"{printable(self.path)}: not one frame could be decoded (wanted a video)")
            if first.rotation % 180:
                aspect = 1 / aspect
            return VideoInfo(rate, time_base, stream.frames or None, duration, aspect)

    def __iter__(self) -> Iterator[Frame]:
        damage: list[str] = []
        index, end = -1, Fraction(0)
        with self._open() as container:
            first: Fraction | None = None
            for index, frame in enumerate(_decoded(container, damage)):
                time = None
                if self.info.time_base is not None and frame.pts is not None:
                    assert frame.time_base is not None
                    stamp = frame.pts * frame.time_base
                    first = stamp if first is None else first
                    time = _snap(stamp - first, self.info.rate, frame.time_base)
                    end = time + 1 / self.info.rate
                image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)  # both counterclockwise
                yield Frame(np.ascontiguousarray(image), self.path, index, time)
        self._judge(index + 1, end, damage)

    def _open(self) -> av.container.InputContainer:
        # an absolute path is never taken for a protocol ("concat:..."); FFmpeg itself keeps local playlists local
        address = self.path if URL.match(self.path) else str(Path(self.path).absolute())
        try:
            container = av.open(address, timeout=30.0)
        except (av.error.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{printable(self.path)}: cannot be opened as a video: {reason}") from None
        if not container.streams.video:
            container.close()
            raise InputError(f"{printable(self.path)}: has no video stream (wanted a video)")
        container.streams.video[0].thread_type = "AUTO"
        return container

    def _judge(self, frames: int, end: Fraction, damage: Sequence[str]) -> None:
        """Note a file that was cut short or is damaged, so that missing frames never go unseen.

        Fewer frames than promised alone prove nothing: a trimmed recording keeps hidden frames in its file.
        """
        info = self.info
        missing = (info.frames or frames) - frames
        short = info.duration - end > max(Fraction(1, 2), 2 / info.rate)
        if missing > 0 and (short or damage):
            self.faults.append(f"{printable(self.path)}: only {frames} of {info.frames} frames could be decoded")
        elif damage:
            self.faults.append(f"{printable(self.path)}: damaged in {len(damage)} places ({damage[0]})")


def _timing(stream: av.VideoStream, path: str) -> tuple[Fraction, Fraction | None]:
    """Frames per second and the unit of times, from a header that may hold anything."""
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and 0 < rate <= _HIGHEST_RATE:
            return Fraction(rate), stream.time_base
    warnings.warn(f"{printable(path)}: frame rate {stream.average_rate}; taken as {_USUAL_RATE}", stacklevel=4)
    return _USUAL_RATE, None


def _snap(time: Fraction, rate: Fraction, unit: Fraction) -> Fraction:
    """The multiple of the frame's duration that ``time`` was rounded from, if it was (Matroska counts milliseconds)."""
    exact = round(time * rate) / rate
    return exact if abs(time - exact) <= unit / 2 else time


def _decoded(container: av.container.InputContainer, damage: list[str]) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded; what cannot is noted in ``damage`` and passed over."""
    try:
        for packet in container.demux(video=0):
            if packet.is_corrupt:
                damage.append("cut packet")
            try:
                yield from packet.decode()
            except av.error.InvalidDataError as error:
                damage.append(str(error.strerror))
    except av.error.FFmpegError as error:
        damage.append(str(error.strerror))
