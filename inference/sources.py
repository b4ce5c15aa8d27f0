"""What ``--source`` may mean: images, folders, patterns, lists, videos, cameras, addresses."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from inference.frames import URL, ImageFiles, VideoFile
from inference.live import LiveStream, open_camera, open_stream
from utils.errors import ImageError, InputError
from utils.image import IMAGE_SUFFIXES, image_size, printable

_CAMERA_FORMATS = ("mp4", "m4v", "mov", "3gp", "avi", "mts", "m2ts", "ts", "h264", "hevc")
_OTHER_FORMATS = ("mkv", "webm", "mpg", "mpeg", "wmv", "asf", "flv", "ogv", "vob")
VIDEO_SUFFIXES = frozenset(f".{name}" for name in (*_CAMERA_FORMATS, *_OTHER_FORMATS))
Source = ImageFiles | VideoFile | LiveStream


def open_sources(source: str, stopping: Callable[[], bool] = lambda: False) -> list[Source]:
    """Find out what ``--source`` means.

    Args:
        source: an image, a video, a folder of them, a pattern (``**`` reaches into folders), a .txt list of paths
            (relative to the list, or to where we are), the number of a camera, or the address of a stream.
        stopping: asked by cameras and streams, which have no end of their own, whether to end.

    Raises:
        InputError: nothing of that name, or nothing in it that could be read.
    """
    path = Path(source)
    if path.is_dir():
        return _group(sorted(file for file in path.iterdir() if _is_media(file)), source, "folder without")
    if path.is_file():
        return _group(_listed(path) if path.suffix.lower() == ".txt" else [path], source, "list without")
    if source.isdecimal():
        return [LiveStream(f"camera {source}", lambda: open_camera(int(source)), stopping=stopping)]
    if URL.match(source):
        if Path(source.split("?")[0]).suffix.lower() in VIDEO_SUFFIXES and source.lower().startswith("http"):
            return [VideoFile(source)]
        return [LiveStream(_without_password(source), lambda: open_stream(source), stopping=stopping)]
    if glob.has_magic(source):
        found = sorted(Path(file) for file in glob.glob(source, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        return _group([file for file in found if file.is_file() and _is_media(file)], source, "pattern matches no")
    raise InputError(
        f"{printable(source)}: no such file (wanted an image, video, folder, pattern, list, camera number or address)"
    )


def _group(files: Sequence[Path], source: str, empty: str) -> list[Source]:
    """All images as one source, so that they share batches, then each video."""
    if not files:
        raise InputError(f"{printable(source)}: {empty} images or videos")
    videos = [file for file in files if not _is_image(file)]
    images = [file for file in files if _is_image(file)]
    return [*([ImageFiles(images)] if images else []), *(VideoFile(str(file)) for file in videos)]


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _is_image(path: Path) -> bool:
    """By the suffix; a file whose suffix says nothing is looked into."""
    if _is_media(path):
        return path.suffix.lower() in IMAGE_SUFFIXES
    try:
        image_size(path)
    except ImageError:
        return False
    return True


def _listed(path: Path) -> list[Path]:
    """The files a list names, one a line; names are bytes to the file system, hence no text encoding here."""
    files = []
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        name = os.fsdecode(line.strip())
        if not name or "\0" in name:
            continue
        candidates = (path.parent / name, Path(name))
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            raise InputError(f"{printable(path)}:{number}: {printable(name)}: no such file")
        files.append(file)
    return files


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)
