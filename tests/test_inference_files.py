from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.files import CSV_HEADER, Stems, crops, csv_report, json_report, yolo_labels
from inference.frames import Frame
from utils.image import read_image
from utils.structures import Detections

NAMES = ("person", "../traffic light")
ODD = os.fsdecode(b"/x/caf\xe9 \xff.jpg")


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4)
    return Detections(boxes, torch.tensor([score for _, score, _ in rows]), torch.tensor([k for _, _, k in rows]))


TWO = found(([-3.5, 2.0, 30.24, 20.0], 0.75, 0), ([10.0, 10.0, 20.0, 15.0], 0.5, 1))
NONE = found()


def frame(source: str = "/x/a.jpg", index: int = 0) -> Frame:
    return Frame(np.full((40, 80, 3), 9, np.uint8), source, index)


def test_json(tmp_path: Path) -> None:
    with json_report(tmp_path / "new" / "a.json", "net.cfg", NAMES) as add:
        add(frame(), TWO)
        add(frame(ODD, 7), NONE)
        assert not (tmp_path / "new" / "a.json").exists()  # it appears when it is whole
    report = json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8"))
    assert report["cfg"] == "net.cfg" and report["names"] == list(NAMES)
    first, second = report["frames"]
    assert first["detections"] == [
        {"box": [-3.5, 2.0, 30.24, 20.0], "label": 0, "name": "person", "score": 0.75},  # not cut at the border
        {"box": [10.0, 10.0, 20.0, 15.0], "label": 1, "name": "../traffic light", "score": 0.5},
    ]
    assert {key: first[key] for key in ("source", "frame", "width", "height")} == {
        "source": "/x/a.jpg",
        "frame": 0,
        "width": 80,
        "height": 40,
    }
    assert second == {"source": ODD, "frame": 7, "width": 80, "height": 40, "detections": []}


def test_json_without_frames(tmp_path: Path) -> None:
    with json_report(tmp_path / "a.json", "net.cfg", NAMES):
        pass
    assert json.loads((tmp_path / "a.json").read_text())["frames"] == []


def test_an_error_leaves_the_old_report(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(RuntimeError, match="oops"), json_report(tmp_path / "a.json", "net.cfg", NAMES) as add:
        add(frame(), TWO)
        raise RuntimeError("oops")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_csv(tmp_path: Path) -> None:
    with csv_report(tmp_path / "a.csv", NAMES) as add:
        add(frame(ODD, 7), TWO)
        add(frame(), NONE)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == CSV_HEADER and len(rows) == 2
    assert rows[0] == ["/x/caf\\xe9 \\xff.jpg", "7", "0", "person", "0.75", "-3.5", "2.0", "30.24", "20.0"]


def test_yolo_labels(tmp_path: Path) -> None:
    add = yolo_labels(tmp_path / "labels", Stems().numbered)
    add(frame(index=12), TWO)
    add(frame(index=13), NONE)
    # the first box is cut at the left border: x 0 .. 30.24 of 80, y 2 .. 20 of 40
    assert (tmp_path / "labels" / "a_000012.txt").read_text().splitlines() == [
        "0 0.189000 0.275000 0.378000 0.450000 0.750000",
        "1 0.187500 0.312500 0.125000 0.125000 0.500000",
    ]
    assert (tmp_path / "labels" / "a_000013.txt").read_text() == ""


def test_crops(tmp_path: Path) -> None:
    add = crops(tmp_path / "crops", Stems().plain, NAMES)
    outside = found(([100.0, 0.0, 120.0, 9.0], 0.4, 0), ([5.1, 5.1, 5.2, 9.0], 0.3, 0))
    add(frame(), TWO)
    add(frame("/y/b.jpg"), outside)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert files == ["crops/_traffic light/a_2.jpg", "crops/person/a_1.jpg"]
    assert read_image(tmp_path / "crops/person/a_1.jpg").shape == (18, 30, 3)


def test_stems_never_collide() -> None:
    stems = Stems()
    sources = ["/x/a.jpg", "/y/a.png", "/z/A.jpg", "/x/a_2.jpg", ODD]
    names = [stems.plain(frame(source)) for source in sources]
    assert names == ["a", "a_2", "A_3", "a_2_2", "café _".replace("é", "_")]
    assert [stems.plain(frame(source)) for source in sources] == names
