"""Compiling the passes over pixels, and what happens where that fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.augment import kernels as module
from data.augment.colour import shift_hsv
from data.augment.kernels import in_rows, kernels
from data.augment.resize import resize_into
from utils.compiler import CACHE_VARIABLE


def noisy(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing loaded, and an empty cache."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    kernels.cache_clear()
    yield tmp_path
    kernels.cache_clear()


def test_without_a_compiler_one_line_says_so(
    forgotten: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data.augment.kernels.cxx_compiler", lambda: "/bin/false")
    image, small = noisy(), np.zeros((9, 9, 3), np.uint8)
    for _ in range(3):
        shift_hsv(image, 0.1, 1, 1)
        resize_into(image, small)
    assert (image != noisy()).any() and small.any()
    assert capsys.readouterr().err.splitlines() == [
        "yolov4: building the augmentation of images, once ...",
        "yolov4: images are made by OpenCV, which is slower: false: no message",
    ]


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("colour.h", "channel(3.0f", "channel(1.0f"),
        ("colour.cpp", "shift_planes(planes", "// shift_planes(planes"),
        ("resize.cpp", "exact = (seen + 0.5f)", "exact = (seen + 0.4f)"),
        ("resize.cpp", "if (shifted)", "if (false)"),
    ],
)
def test_a_library_that_computes_something_else_is_not_used(
    file: str,
    right: str,
    wrong: str,
    forgotten: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kernels() is None:
        pytest.skip("nothing compiles here")
    folder = Path(shutil.copytree(module.FOLDER, forgotten / "csrc"))
    text = (folder / file).read_text()
    assert right in text
    (folder / file).write_text(text.replace(right, wrong))
    monkeypatch.setattr(module, "FOLDER", folder)
    kernels.cache_clear()
    assert kernels() is None
    assert capsys.readouterr().err.splitlines()[-1].endswith("which is slower: the test of its library failed")


def test_a_damaged_library_is_built_again(
    forgotten: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if kernels() is None:
        pytest.skip("nothing compiles here")
    (library,) = (forgotten / "cache").glob("pixels-*.so")
    other = forgotten / "other"  # a library is loaded once a path
    other.mkdir()
    (other / library.name).write_bytes(b"\x7fELF")
    monkeypatch.setenv(CACHE_VARIABLE, str(other))
    kernels.cache_clear()
    image = noisy()
    kernels().shift_hsv(image, 0.1, 1, 1)
    assert (image != noisy()).any() and capsys.readouterr().err.count("building") == 2


def test_what_lies_otherwise_is_left_to_opencv() -> None:
    image = noisy()
    assert in_rows(image) and in_rows(image[3:, 2:9]) and in_rows(image[::2])
    others = [image[:, ::-1], image[:, :, ::-1], image[:, ::2], image.astype(np.float32), image[..., :1]]
    assert not any(map(in_rows, others))
    shown = np.empty_like(image)
    resize_into(image[:, ::-1], shown)
    np.testing.assert_array_equal(shown, image[:, ::-1])
