"""Cameras and network streams: the newest frame, and another try when they break off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import cv2
import numpy as np

from inference.frames import Frame
from utils.errors import EnvironmentFault

_TIMEOUT = 10.0  # seconds without data after which a connection counts as broken
_POLL = 0.1  # seconds


class LiveStream:
    """Frames as they come; those that nobody had time for are dropped, so that nothing lags behind.

    A connection that breaks, ends or stalls is opened again after ``backoff``, then twice, four times as long.

    Args:
        name: for messages and results.
        connect: opens the source and yields uint8 (H, W, 3) RGB until it ends; raises OSError when it breaks.
        retries: how often in a row to try again before giving up.
        backoff: seconds before the first of these.
        patience: seconds without a new frame, over all retries, before giving up; ends even a driver that hangs.
        stopping: asked a few times a second; True ends the frames.
    """

    length = None

    def __init__(
        self,
        name: str,
        connect: Callable[[], Iterator[np.ndarray]],
        *,
        retries: int = 3,
        backoff: float = 1.0,
        patience: float = 60.0,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self.faults: list[str] = []
        self._connect, self._stopping = connect, stopping
        self._retries, self._backoff, self._patience = retries, backoff, patience
        self._fresh = threading.Condition()
        self._newest: tuple[np.ndarray, float] | None = None
        self._gone: str | None = None
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the newest frame each time one is asked for.

        Raises:
            EnvironmentFault: the stream is gone for good.
        """
        threading.Thread(target=self._read, daemon=True).start()
        index, start = 0, None
        try:
            while (newest := self._wait()) is not None:
                image, moment = newest
                start = moment if start is None else start
                yield Frame(image, self.name, index, Fraction(round(1000 * (moment - start)), 1000))
                index += 1
        finally:
            self._stopped.set()

    def _wait(self) -> tuple[np.ndarray, float] | None:
        """The newest frame, once there is one; None when asked to stop."""
        deadline = time.monotonic() + self._patience
        with self._fresh:
            while self._newest is None and not self._stopping():
                if self._gone is not None or time.monotonic() > deadline:
                    reason = self._gone or f"no frame for {self._patience:.0f} s"
                    raise EnvironmentFault(f"{self.name}: {reason}; check the address, the cable or the network")
                self._fresh.wait(_POLL)
            newest, self._newest = self._newest, None
        return None if self._stopping() else newest

    def _read(self) -> None:
        failures = 0
        while True:
            reason = "the stream ended"
            try:
                for image in self._connect():
                    failures = 0
                    self._publish(image)
                    if self._stopped.is_set():
                        return
            except (OSError, av.error.FFmpegError, cv2.error) as error:
                reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
            failures += 1
            if failures > self._retries:
                self._give_up(f"{reason} (tried {failures} times)")
                return
            if self._stopped.wait(self._backoff * 2 ** (failures - 1)):
                return

    def _publish(self, image: np.ndarray) -> None:
        with self._fresh:
            self._newest = (image, time.monotonic())
            self._fresh.notify()

    def _give_up(self, reason: str) -> None:
        with self._fresh:
            self._gone = reason
            self._fresh.notify()


def open_stream(address: str) -> Iterator[np.ndarray]:
    """Decode a network stream; a stall of ten seconds ends it with an error."""
    options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
    with av.open(address, options=options, timeout=_TIMEOUT) as container:
        if not container.streams.video:
            raise OSError("no video in the stream")
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def open_camera(index: int) -> Iterator[np.ndarray]:
    """Frames of the camera with that number, through OpenCV, which speaks to every system's driver."""
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise OSError("the camera cannot be opened")
        while True:
            arrived, image = camera.read()
            if not arrived:
                raise OSError("the camera sends nothing")
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        camera.release()
