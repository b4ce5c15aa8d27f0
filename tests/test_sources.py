from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from inference.frames import ImageFiles, VideoFile
from inference.live import LiveStream
from inference.sources import open_sources
from tests.clips import write_clip
from utils.errors import InputError
from utils.image import write_image

NAMES = ["b.png", "a.jpg", "sub/c.png", os.fsdecode(b"d \xff.png"), "猫.png", "e[1].png", "-f.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, one of them in a folder below, two videos and a file that is neither."""
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        write_image(tmp_path / "x.png", np.zeros((4, 4, 3), np.uint8))
        (tmp_path / "x.png").rename(tmp_path / name)
    for name in ("z.mp4", "y.avi"):
        write_clip(tmp_path / name, frames=2)
    (tmp_path / "notes.md").write_text("nothing")
    return tmp_path


def paths(source: object) -> list[str]:
    assert isinstance(source, ImageFiles)
    return [path.name for path in source.paths]


def test_folder_is_its_images_then_its_videos(folder: Path) -> None:
    images, *videos = open_sources(str(folder))
    assert paths(images) == sorted(name for name in NAMES if "/" not in name)
    assert [video.name for video in videos] == ["y", "z"]
    assert len(list(images)) == 6 and images.faults == []


def test_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths(open_sources(f"{folder}/*.jpg")[0]) == ["a.jpg"]
    assert sorted(paths(open_sources(f"{folder}/**/[bc].png")[0])) == ["b.png", "c.png"]
    monkeypatch.chdir(folder)
    assert paths(open_sources("*d*.png")[0]) == [os.fsdecode(b"d \xff.png")]


def test_single_files(folder: Path) -> None:
    assert paths(open_sources(str(folder / "b.png"))[0]) == ["b.png"]
    assert paths(open_sources(str(folder / "e[1].png"))[0]) == ["e[1].png"]  # a name, though it looks like a pattern
    assert isinstance(open_sources(str(folder / "z.mp4"))[0], VideoFile)


def test_a_suffix_that_says_nothing_is_looked_into(folder: Path) -> None:
    (folder / "b.png").rename(folder / "picture")
    (folder / "z.mp4").rename(folder / "clip.bin")
    assert paths(open_sources(str(folder / "picture"))[0]) == ["picture"]
    assert isinstance(open_sources(str(folder / "clip.bin"))[0], VideoFile)


def test_list_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the list or to where we are, any line end, any bytes, in the order given."""
    lines = [b"sub/c.png", b"", os.fsencode(folder / "a.jpg"), b"d \xff.png", b"z.mp4", "猫.png".encode()]
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))  # Windows editors put a mark first
    images, video = open_sources(str(folder / "list.txt"))
    assert paths(images) == ["c.png", "a.jpg", os.fsdecode(b"d \xff.png"), "猫.png"] and video.name == "z"
    (folder / "sub" / "list.txt").write_bytes(b"b.png\n")
    monkeypatch.chdir(folder)
    assert paths(open_sources("sub/list.txt")[0]) == ["b.png"]


def test_cameras_and_addresses() -> None:
    camera, stream = open_sources("0")[0], open_sources("rtsp://me:secret@host:554/live")[0]
    assert isinstance(camera, LiveStream) and camera.name == "camera 0"
    assert isinstance(stream, LiveStream) and stream.name == "rtsp://host:554/live"  # no password in any output
    assert isinstance(open_sources("https://host/clip.mp4?x=1")[0], VideoFile)
    assert isinstance(open_sources("http://host/feed")[0], LiveStream)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.jpg", r"nothing\.jpg: no such file"),
        ("*.gif", r"\*\.gif: pattern matches no images or videos"),
        ("empty", "empty: folder without images or videos"),
        ("empty.txt", r"empty\.txt: list without images or videos"),
        ("wrong.txt", r"wrong\.txt:2: missing\\xff\.png: no such file"),
    ],
)
def test_nothing_there(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(folder)
    Path("empty").mkdir()
    Path("empty.txt").write_text("\n\n")
    Path("wrong.txt").write_bytes(b"b.png\nmissing\xff.png\n")
    with pytest.raises(InputError, match=message):
        open_sources(source)
