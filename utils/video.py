"""Writing videos that play everywhere and survive whatever ends the program."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import cv2
import numpy as np
from av.video.reformatter import Colorspace

from utils.errors import EnvironmentFault

# Tried in this order; which of them exist is decided by how PyAV's FFmpeg was built. A short lookahead keeps few
# frames inside the encoder, where a SIGKILL would lose them.
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20", "rc-lookahead": "8", "x264-params": "sync-lookahead=0"},
    "libopenh264": {},
    "mpeg4": {},
}
_BITS_PER_PIXEL = 0.15  # of the encoders without a quality setting
_FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+negative_cts_offsets",
    "frag_duration": "500000",  # microseconds
    "flush_packets": "1",
}
_MOST_TICKS = {"mpeg4": 65535}  # a limit of that format
_BT601, _BT709 = 6, 1  # FFmpeg's numbers, the same for primaries, transfer and matrix
_GREY = 114


class VideoWriter:
    """An H.264 mp4 file with exactly the frames it was given.

    Frames go into ``<stem>.part.mp4`` in fragments of half a second, playable even after SIGKILL. ``close`` moves
    the index to the front, so that a browser can start playing at once, and gives the file its name.

    Args:
        path: the .mp4 file; appears when it is complete. No frames, no file.
        rate: nominal frames per second.
        time_base: unit in which ``write`` receives times, in seconds; None: one frame.
        pixel_aspect: width by height of a pixel.

    Raises:
        EnvironmentFault: no encoder, or the disk refuses; what was written stays in the .part.mp4 file.
    """

    def __init__(
        self, path: Path, rate: Fraction, *, time_base: Fraction | None = None, pixel_aspect: Fraction = Fraction(1)
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(f"{self.path.stem}.part.mp4")
        self.frames = 0
        self._encoder = find_encoder()
        self._rate = rate.limit_denominator(_MOST_TICKS.get(self._encoder, 1 << 16))
        self._tick = _tick(self._rate, time_base, _MOST_TICKS.get(self._encoder, (1 << 31) - 1))
        self._aspect = pixel_aspect
        self._last = -1
        self._container: av.container.OutputContainer | None = None
        self._probe_folder()

    def write(self, image: np.ndarray, time: Fraction | None = None) -> None:
        """Append a frame, uint8 (H, W, 3) RGB, shown at ``time`` seconds (None: one frame after the last).

        The first frame sets the size; a frame of another size is fitted into it with grey borders. A time that does
        not come after the last frame's is moved to come after it: frames are never lost.
        """
        try:
            if self._container is None:
                self._open(*image.shape[:2])
            self._mux(self._frame(image, time))
        except (OSError, av.error.FFmpegError) as error:  # only FFmpeg's errors with an errno are OSErrors too
            raise self._fault(error) from error
        self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds and put the file in its place."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            try:
                for packet in self._stream.encode():
                    container.mux(packet)
            finally:
                container.close()
            self._finish()
        except (OSError, av.error.FFmpegError) as error:
            raise self._fault(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()  # whatever ended the work, the frames so far are worth keeping
        except EnvironmentFault:
            if error is None:
                raise

    def _probe_folder(self) -> None:
        """Fail before the first frame is computed where the folder takes no file."""
        try:
            with self.part.open("wb"):
                pass
            self.part.unlink()
        except OSError as error:
            raise self._fault(error) from error

    def _open(self, height: int, width: int) -> None:
        self._size = (height + height % 2, width + width % 2)  # yuv420p has one colour sample for 2x2 pixels
        self._container = av.open(str(self.part), "w", format="mp4", options=_FRAGMENTED)
        options = dict(ENCODERS[self._encoder])
        stream = self._container.add_stream(self._encoder, rate=self._rate, options=options)
        self._stream = cast("av.VideoStream", stream)
        self._stream.height, self._stream.width = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = self._tick
        context = self._stream.codec_context
        context.sample_aspect_ratio = self._aspect
        # players that find no colour tag guess by the height, and so do we
        self._color = _BT709 if height >= 720 else _BT601
        context.colorspace = context.color_primaries = context.color_trc = self._color
        if not options:
            context.bit_rate = int(height * width * self._rate * _BITS_PER_PIXEL)

    def _frame(self, image: np.ndarray, time: Fraction | None) -> av.VideoFrame:
        matrix = Colorspace.ITU709 if self._color == _BT709 else Colorspace.ITU601
        frame = av.VideoFrame.from_ndarray(fit_frame(image, self._size), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
        step = max(1, round(1 / (self._rate * self._tick)))
        ticks = self._last + step if time is None else round(time / self._tick)
        if self._last < 0:
            ticks = max(ticks, 0)
        self._last = max(ticks, self._last + 1)
        frame.pts, frame.time_base, frame.duration = self._last, self._tick, step
        return frame

    def _mux(self, frame: av.VideoFrame) -> None:
        assert self._container is not None
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def _finish(self) -> None:
        """Copy the packets into a file with its index in front, rename it, remove the fragments."""
        whole = self.path.with_name(f"{self.path.stem}.whole.part.mp4")
        try:
            _remux(self.part, whole)
            whole.replace(self.path)
        except BaseException:
            whole.unlink(missing_ok=True)
            raise
        self.part.unlink()

    def _fault(self, error: OSError | av.error.FFmpegError) -> EnvironmentFault:
        kept = f"; the frames before are in {self.part.name}" if self.part.exists() else ""
        return EnvironmentFault(f"{self.path}: cannot write the video: {error.strerror or error}{kept}")


def find_encoder() -> str:
    """The best encoder this PyAV has; says so where it is not H.264.

    Raises:
        EnvironmentFault: there is none.
    """
    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # av.codec.codec.UnknownCodecError
            continue
        if name == "mpeg4":
            warnings.warn("PyAV has no H.264 encoder here; videos are written as MPEG-4 part 2", stacklevel=3)
        return name
    raise EnvironmentFault(f"PyAV {av.__version__} has none of the encoders {', '.join(ENCODERS)}; reinstall av")


def fit_frame(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``image`` at exactly ``size`` (H, W): an odd edge is repeated, another size is letterboxed."""
    height, width = image.shape[:2]
    missing_rows, missing_columns = size[0] - height, size[1] - width
    if missing_rows in (0, 1) and missing_columns in (0, 1):
        if missing_rows or missing_columns:
            image = np.pad(image, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="edge")
        return np.ascontiguousarray(image)
    scale = min(size[0] / height, size[1] / width)
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size[0] - new_h) // 2, (size[1] - new_w) // 2
    canvas = np.full((*size, 3), _GREY, np.uint8)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + new_h, left : left + new_w] = cv2.resize(image, (new_w, new_h), interpolation=method)
    return canvas


def _tick(rate: Fraction, time_base: Fraction | None, most: int) -> Fraction:
    """A unit of time in which both the frame rate and the source's times are whole numbers, where there is one."""
    frame = 1 / rate
    if time_base is None:
        return frame
    product = frame.denominator * time_base.denominator
    both = Fraction(1, product // np.gcd(frame.denominator, time_base.denominator))
    return both if both.denominator <= most else frame


def _remux(source: Path, target: Path) -> None:
    with av.open(str(source)) as before, av.open(str(target), "w", options={"movflags": "faststart"}) as after:
        video = before.streams.video[0]
        copy = after.add_stream_from_template(video)
        start = video.start_time or 0  # fragments cannot say that decoding begins before time 0; a whole file can
        for packet in before.demux(video):
            if packet.dts is None:  # the last, empty one only flushes a decoder
                continue
            assert packet.pts is not None
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = copy
            after.mux(packet)
