"""evaluation.voc_results: the files VOC's evaluation reads, by hand arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.voc_results import save_voc_results
from utils.errors import InputError
from utils.structures import Detections, ImageRecord


def record(image_id: int, path: str) -> ImageRecord:
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    return ImageRecord(image_id, Path(path), (50, 100), *empty)


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    values = torch.tensor(rows).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def test_lines_and_their_first_pixel_is_one(tmp_path: Path) -> None:
    detections = {
        7: found((10, 20, 30, 40, 0.75, 0), (-5, -1, 100, 60, 0.5, 1), (0, 0, 99, 49, 0.25, 0)),
        2: found((1.5, 2.5, 3.5, 4.5, 0.125, 0)),
    }
    paths = save_voc_results(
        tmp_path / "voc", [record(7, "a/000007.jpg"), record(2, "b/x.y.png")], detections, ["aero/plane", "dog", "owl"]
    )
    assert [path.name for path in paths] == [
        "comp4_det_test_aero_plane.txt",
        "comp4_det_test_dog.txt",
        "comp4_det_test_owl.txt",
    ]
    assert paths[0].read_text().splitlines() == [
        "000007 0.750000 11.000000 21.000000 31.000000 41.000000",
        "000007 0.250000 1.000000 1.000000 100.000000 50.000000",
        "x.y 0.125000 2.500000 3.500000 4.500000 5.500000",
    ]
    assert paths[1].read_text() == "000007 0.500000 1.000000 1.000000 100.000000 50.000000\n"  # cut at the border
    assert paths[2].read_text() == ""
    assert not list((tmp_path / "voc").glob("*.tmp"))


def test_names_that_would_be_mixed_up(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image name '7' comes twice"):
        save_voc_results(tmp_path, [record(1, "a/7.jpg"), record(2, "b/7.jpg")], {}, ["dog"])
    with pytest.raises(InputError, match="file name .* comes twice"):
        save_voc_results(tmp_path, [], {}, ["a/b", "a_b"])
    assert not list(tmp_path.iterdir())
