from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from inference import live
from inference.live import LiveStream, open_camera, open_stream
from tests.clips import number_of, numbered, write_clip
from utils.errors import EnvironmentFault


def stream(connect: object, **options: float) -> LiveStream:
    return LiveStream("door", connect, backoff=0.01, **options)  # type: ignore[arg-type]


def test_a_slow_reader_gets_the_newest_frame() -> None:
    taken, sent, seen = threading.Event(), threading.Event(), threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield numbered(0)
        taken.wait(60)
        for index in range(1, 90):
            yield numbered(index)
        sent.set()
        seen.wait(60)

    frames = iter(stream(camera))
    assert number_of(next(frames).image) == 0
    taken.set()
    assert sent.wait(60)
    newest = number_of(next(frames).image)
    seen.set()
    frames.close()
    assert newest == 89


def test_comes_back_after_breaks_of_every_kind() -> None:
    connections = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal connections
        connections += 1
        if connections in (2, 4):
            raise OSError("connection refused")
        yield numbered(connections)
        time.sleep(0.05)
        if connections == 1:
            raise OSError("cable pulled")  # the third one just ends

    frames = iter(stream(camera))
    assert [number_of(next(frames).image) for _ in range(3)] == [1, 3, 5]
    frames.close()


def test_gives_up_after_retries_in_a_row() -> None:
    tries = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal tries
        tries += 1
        if tries == 1:
            yield numbered(0)
            time.sleep(0.05)
        raise OSError("no route\nto host")

    frames = iter(stream(camera))
    next(frames)
    with pytest.raises(EnvironmentFault, match=r"door: no route to host \(tried 4 times\); check the address"):
        next(frames)
    assert tries == 4


def test_waits_longer_each_time() -> None:
    moments = []

    def camera() -> Iterator[np.ndarray]:
        moments.append(time.monotonic())
        raise OSError("off")
        yield

    with pytest.raises(EnvironmentFault, match="off"):
        next(iter(LiveStream("door", camera, backoff=0.05)))
    waits = np.diff(moments)
    assert len(waits) == 3 and (waits >= [0.05, 0.1, 0.2]).all()


def test_a_driver_that_hangs_is_given_up() -> None:
    def camera() -> Iterator[np.ndarray]:
        time.sleep(30)
        yield numbered(0)

    with pytest.raises(EnvironmentFault, match="door: no frame for 0 s"):
        next(iter(stream(camera, patience=0.2)))


def test_a_wish_to_stop_ends_even_a_silent_stream() -> None:
    def camera() -> Iterator[np.ndarray]:
        time.sleep(30)
        yield numbered(0)

    start = time.monotonic()
    assert list(LiveStream("door", camera, stopping=lambda: time.monotonic() > start + 0.2)) == []
    assert time.monotonic() < start + 5


def test_closing_ends_the_connection() -> None:
    closed = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        try:
            while True:
                yield numbered(0)
        finally:
            closed.set()

    frames = iter(stream(camera))
    next(frames)
    frames.close()
    assert closed.wait(5)


def test_times_are_those_of_arrival() -> None:
    def camera() -> Iterator[np.ndarray]:
        for index in range(3):
            yield numbered(index)
            time.sleep(0.1)

    frames = list(zip(range(3), stream(camera), strict=False))
    times = [frame.time for _, frame in frames]
    assert times[0] == 0 and Fraction(9, 100) <= times[1] < times[2]


def test_open_stream_decodes(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", frames=4))
    assert [number_of(image) for image in open_stream(path)] == [0, 1, 2, 3]
    with pytest.raises(OSError, match="No such file"):
        next(open_stream(str(tmp_path / "b.mp4")))


def test_a_server_that_says_nothing_is_a_broken_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/feed"
        with pytest.raises(EnvironmentFault, match=r"door: .*\(tried 2 times\)"):
            next(iter(stream(lambda: open_stream(address), retries=1)))


def test_a_real_connection_that_breaks_is_opened_again(tmp_path: Path) -> None:
    """A server that sends half a video, hangs up, and sends all of it the next time."""
    data = write_clip(tmp_path / "a.ts", frames=60).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for share in (len(data) // 2, len(data)):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + data[:share])

        threading.Thread(target=serve, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/feed"
        frames = iter(stream(lambda: open_stream(address), retries=2))
        deadline = time.monotonic() + 20
        while number_of(next(frames).image) < 59:
            assert time.monotonic() < deadline
        frames.close()


def test_open_stream_without_video(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(OSError, match="no video in the stream"):
        next(open_stream(str(tmp_path / "a.wav")))


class FakeCapture:
    """OpenCV's interface to a camera that sends two frames, blue in OpenCV's order."""

    def __init__(self, index: int) -> None:
        self.left, self.opened = 2, index == 0

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return self.opened

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.full((2, 2, 3), (255, 0, 0), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.opened = False


def test_open_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.cv2, "VideoCapture", FakeCapture)
    frames = open_camera(0)
    assert [tuple(next(frames)[0, 0]) for _ in range(2)] == [(0, 0, 255)] * 2
    with pytest.raises(OSError, match="sends nothing"):
        next(frames)
    with pytest.raises(OSError, match="cannot be opened"):
        next(open_camera(1))
