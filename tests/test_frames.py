from __future__ import annotations

import os
import socket
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from inference.frames import ImageFiles, VideoFile
from tests.clips import number_of, write_clip
from utils.errors import InputError
from utils.image import write_image


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov", ".ts"])
def test_every_frame_in_order(tmp_path: Path, suffix: str) -> None:
    video = VideoFile(str(write_clip(tmp_path / f"a{suffix}")))
    frames = list(video)
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    assert [frame.index for frame in frames] == list(range(20))
    assert video.info.rate == 25 and video.faults == [] and video.name == "a"
    assert {frame.source for frame in frames} == {str(tmp_path / f"a{suffix}")}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("rate", [Fraction(25, 2), Fraction(30000, 1001), Fraction(60)])
def test_times_are_exact(tmp_path: Path, suffix: str, rate: Fraction) -> None:
    """Matroska counts milliseconds: there the exact times must be restored."""
    video = VideoFile(str(write_clip(tmp_path / f"a{suffix}", rate=rate)))
    assert [frame.time for frame in video] == [index / rate for index in range(20)]
    assert video.info.rate == rate


def test_times_of_a_variable_rate(tmp_path: Path) -> None:
    times = [Fraction(index * (index + 4), 90) for index in range(20)]
    frames = list(VideoFile(str(write_clip(tmp_path / "a.mp4", times=times))))
    assert [frame.time for frame in frames] == times


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_rotation_is_applied(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    """The white square in the top left corner moves as the picture is turned counterclockwise."""
    frame = next(iter(VideoFile(str(write_clip(tmp_path / "a.mp4", rotation=rotation)))))
    assert frame.image.shape[:2] == ((64, 48) if rotation % 180 else (48, 64))
    assert frame.image[corner].min() > 230 and frame.image.flags.c_contiguous
    assert frame.image[-1 - corner[0], -1 - corner[1]].max() < 60


def test_odd_sizes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", size=(47, 63), codec="mjpeg")
    assert {frame.image.shape for frame in VideoFile(str(path))} == {(47, 63, 3)}


def test_size_may_change_in_mid_stream(tmp_path: Path) -> None:
    """Two elementary streams after each other, as a camera that was reconfigured sends them."""
    first = write_clip(tmp_path / "1.h264", frames=5).read_bytes()
    second = write_clip(tmp_path / "2.h264", frames=5, size=(96, 128)).read_bytes()
    (tmp_path / "both.h264").write_bytes(first + second)
    shapes = [frame.image.shape for frame in VideoFile(str(tmp_path / "both.h264"))]
    assert shapes == [(48, 64, 3)] * 5 + [(96, 128, 3)] * 5


def test_length_is_known_from_the_header(tmp_path: Path) -> None:
    assert VideoFile(str(write_clip(tmp_path / "a.mp4"))).length == 20
    assert VideoFile(str(write_clip(tmp_path / "a.mkv"))).length is None


@pytest.mark.parametrize("name", [b"caf\xe9 \xff.mp4", "猫 \N{CAT FACE}.mp4".encode(), b"-n.mp4", b"concat:a|b.mp4"])
def test_any_file_name(tmp_path: Path, name: bytes) -> None:
    write_clip(tmp_path / "a.mp4", frames=3).rename(path := tmp_path / os.fsdecode(name))
    assert len(list(VideoFile(str(path)))) == 3


def test_relative_name_is_never_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "a.mp4", frames=3).rename(tmp_path / "data:a.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoFile("data:a.mp4"))) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"a\.mp4: cannot be opened as a video: Invalid data"),
        (b"hello, this is text\n" * 50, r"a\.mp4: cannot be opened as a video: Invalid data"),
    ],
    ids=["empty", "text"],
)
def test_no_video(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(InputError, match=message):
        _ = VideoFile(str(tmp_path / "a.mp4")).info


def test_a_playlist_reaches_no_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(InputError, match=r"a\.m3u8: (cannot be|not one frame|has no video)"):
            _ = VideoFile(str(tmp_path / "a.m3u8")).info
        with pytest.raises(TimeoutError):
            server.accept()


def test_missing_video(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.mp4: cannot be opened as a video: No such file"):
        _ = VideoFile(str(tmp_path / "b.mp4")).info


def test_zero_frames(tmp_path: Path) -> None:
    """A header that is whole, and nothing behind it that decodes."""
    data = bytearray(write_clip(tmp_path / "a.mp4", movflags="faststart").read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(InputError, match="not one frame could be decoded"):
        _ = VideoFile(str(tmp_path / "a.mp4")).info


def test_no_video_stream(tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.mp4"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(1600))
    with pytest.raises(InputError, match="has no video stream"):
        _ = VideoFile(str(tmp_path / "a.mp4")).info


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_file_cut_short_gives_what_it_has_and_says_so(tmp_path: Path, suffix: str) -> None:
    options = {"movflags": "faststart"} if suffix == ".mp4" else {"codec": "mjpeg"}
    path = write_clip(tmp_path / f"a{suffix}", frames=100, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video = VideoFile(str(path))
    count = len(list(video))
    assert 5 < count < 95
    assert len(video.faults) == 1 and f"a{suffix}: only {count} of 100 frames could be decoded" in video.faults[0]


def test_a_hole_is_passed_over(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", frames=60, codec="mjpeg")
    data = bytearray(path.read_bytes())
    middle = data.index(b"\xff\xd8", len(data) // 2)
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    video = VideoFile(str(path))
    assert len(list(video)) >= 58 and len(video.faults) <= 1


def test_senseless_rate_is_replaced(tmp_path: Path) -> None:
    path = str(write_clip(tmp_path / "a.mp4", rate=Fraction(5000)))
    with pytest.warns(UserWarning, match="frame rate 5000; taken as 25"):
        video = VideoFile(path)
        assert video.info.rate == 25 and video.info.time_base is None
    assert [frame.time for frame in video] == [None] * 20


def test_images_in_order_and_broken_ones_noted(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("1.png", "2.png", "3.jpg")]
    write_image(paths[0], np.full((4, 6, 3), 7, np.uint8))
    paths[1].write_bytes(b"not a picture")
    write_image(paths[2], np.full((5, 3, 3), 9, np.uint8))
    files = ImageFiles(paths)
    frames = list(files)
    assert [frame.source for frame in frames] == [str(paths[0]), str(paths[2])]
    assert [frame.image.shape for frame in frames] == [(4, 6, 3), (5, 3, 3)]
    assert files.length == 3 and files.name == tmp_path.name and ImageFiles(paths[:1]).name == "1"
    assert len(files.faults) == 1 and "2.png" in files.faults[0]
