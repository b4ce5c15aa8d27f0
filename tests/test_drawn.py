from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from inference import drawn as drawn_output
from inference.drawn import image_files, refuse_source, video_file, window
from inference.files import Stems
from inference.frames import Frame
from utils.draw import color_of
from utils.errors import EnvironmentFault, UsageError
from utils.image import read_image, write_image
from utils.structures import Detections
from utils.video import VideoWriter

ONE = Detections(torch.tensor([[10.0, 20.0, 40.0, 45.0]]), torch.tensor([0.5]), torch.tensor([0]))
IMAGE = np.zeros((60, 80, 3), np.uint8)


@pytest.mark.parametrize(("source", "name"), [("/x/a.PNG", "a.png"), ("/x/a.gif", "a.jpg"), ("/x/a", "a.jpg")])
def test_image_files(tmp_path: Path, source: str, name: str) -> None:
    image_files(tmp_path, Stems().plain, ["cat"])(Frame(IMAGE, source), ONE)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    drawn = read_image(tmp_path / name)
    assert drawn.shape == IMAGE.shape
    assert np.abs(drawn[40, 10].astype(int) - color_of(0)).max() < (1 if name.endswith("png") else 120)


def test_a_picture_is_never_written_over_its_source(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    with pytest.raises(UsageError, match=r"a\.png: the result would overwrite its source; give another --out"):
        image_files(tmp_path, Stems().plain, ["cat"])(Frame(IMAGE, str(tmp_path / "a.png")), ONE)
    refuse_source(tmp_path / "b.png", str(tmp_path / "a.png"))
    assert read_image(tmp_path / "a.png").max() == 0


def test_video_file(tmp_path: Path) -> None:
    with video_file(VideoWriter(tmp_path / "a.mp4", Fraction(5)), ["cat"]) as add:
        for index in range(3):
            add(Frame(IMAGE, "camera 0", index, Fraction(index, 5)), ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


class Screen:
    """Stands for OpenCV's window functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, key: int = -1, visible: float = 1.0) -> None:
        self.shown: list[np.ndarray] = []
        self.waits: list[int] = []
        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(cv2, "imshow", lambda _title, image: self.shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", lambda wait: self.waits.append(wait) or key)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
        monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)


@pytest.mark.parametrize(
    ("key", "visible", "ends"), [(-1, 1.0, 0), (ord("x"), 1.0, 0), (ord("q"), 1.0, 1), (27, 1.0, 1), (-1, 0.0, 1)]
)
def test_window(monkeypatch: pytest.MonkeyPatch, key: int, visible: float, ends: int) -> None:
    screen, ended = Screen(monkeypatch, key=key, visible=visible), []
    with window("a", ["cat"], wait=False, quit_=lambda: ended.append(1)) as add:
        add(Frame(IMAGE, "a"), ONE)
    assert len(ended) == ends and screen.waits == [1]
    assert tuple(screen.shown[0][40, 10]) == color_of(0)[::-1]  # OpenCV shows BGR


def test_window_waits_for_a_key_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)
    with window("a", ["cat"], wait=True, quit_=lambda: None) as add:
        add(Frame(IMAGE, "a"), ONE)
    assert screen.waits == [0]


def test_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("no display")

    Screen(monkeypatch)
    monkeypatch.setattr(cv2, "imshow", refuse)
    with (
        pytest.raises(EnvironmentFault, match="--view: no window can be opened here"),
        window("a", ["cat"], wait=False, quit_=lambda: None) as add,
    ):
        add(Frame(IMAGE, "a"), ONE)
    monkeypatch.setattr(drawn_output.sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with (
        pytest.raises(EnvironmentFault, match="--view: no window can be opened here"),
        window("a", ["cat"], wait=False, quit_=lambda: None),
    ):
        raise AssertionError("unreachable")
    assert sys.platform == "linux"
