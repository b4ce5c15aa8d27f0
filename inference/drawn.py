"""Drawn frames as image files, as one video, or in a window; each is an ``Add``, called once for every frame."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from inference.files import Add
from inference.frames import Frame
from utils.draw import draw_detections
from utils.errors import EnvironmentFault, UsageError
from utils.image import printable, write_image
from utils.structures import Detections
from utils.video import VideoWriter

_WRITEABLE = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_NO_SCREEN = "--view: no window can be opened here; leave it out"
_KEYS_TO_QUIT = (ord("q"), 27)


def image_files(folder: Path, stem_of: Callable[[Frame], str], names: Sequence[str]) -> Add:
    """One picture a frame, in the format of its source where that can be written, else JPEG."""

    def add(frame: Frame, detections: Detections) -> None:
        suffix = Path(frame.source).suffix.lower()
        target = folder / f"{stem_of(frame)}{suffix if suffix in _WRITEABLE else '.jpg'}"
        refuse_source(target, frame.source)
        write_image(target, _drawn(frame, detections, names))

    return add


@contextmanager
def video_file(writer: VideoWriter, names: Sequence[str]) -> Iterator[Add]:
    """Append each frame to ``writer``, which is closed in the end whatever happens."""
    with writer:

        def add(frame: Frame, detections: Detections) -> None:
            writer.write(_drawn(frame, detections, names), frame.time)

        yield add


@contextmanager
def window(title: str, names: Sequence[str], *, wait: bool, quit_: Callable[[], None]) -> Iterator[Add]:
    """Show each frame; q, escape or closing the window calls ``quit_``. ``wait``: until a key is pressed.

    Raises:
        EnvironmentFault: there is no screen.
    """
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise EnvironmentFault(_NO_SCREEN)  # OpenCV's Qt would abort the whole process

    def add(frame: Frame, detections: Detections) -> None:
        try:
            cv2.imshow(title, cv2.cvtColor(_drawn(frame, detections, names), cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(0 if wait else 1) & 0xFF
            closed = cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:
            raise EnvironmentFault(_NO_SCREEN) from None
        if key in _KEYS_TO_QUIT or closed:
            quit_()

    try:
        yield add
    finally:
        cv2.destroyAllWindows()


def refuse_source(target: Path, source: str) -> None:
    """Raise UsageError where writing ``target`` would destroy ``source``."""
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise UsageError(f"{printable(target)}: the result would overwrite its source; give another --out")


def _drawn(frame: Frame, detections: Detections, names: Sequence[str]) -> np.ndarray:
    boxes, labels, scores = detections.boxes.numpy(), detections.labels.numpy(), detections.scores.numpy()
    return draw_detections(frame.image, boxes, labels, scores, names)
