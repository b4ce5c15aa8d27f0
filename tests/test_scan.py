"""The scan: what it finds, leaves out, mends and remembers."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data import scan as scan_module
from data.formats.dataset import Dataset
from data.scan import BoxCounts, mend_boxes, scan
from utils.errors import DatasetError
from utils.image import printable, write_image
from utils.structures import ImageRecord


def record(path: Path, boxes: object = (), size: tuple[int, int] = (20, 30), **fields: object) -> ImageRecord:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = fields.pop("labels", np.zeros(len(boxes), np.int64))
    return ImageRecord(1, path, size, boxes, np.asarray(labels), np.zeros(len(boxes), bool), **fields)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Ten good images of 30x20 pixels with a box each."""
    paths = [tmp_path / "images" / f"{k}.png" for k in range(10)]
    paths[0].parent.mkdir()
    for path in paths:
        write_image(path, np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "x.json").touch()
    records = tuple(record(path, [[1, 2, 11, 12]]) for path in paths)
    return Dataset(records, ("a",), (1,), str(tmp_path / "x.json"))


def test_all_good(dataset: Dataset) -> None:
    report = scan(dataset)
    assert (report.images, report.remembered, report.bad, report.boxes) == (10, 0, (), BoxCounts(kept=10))
    assert [one.path for one in report.dataset.records] == [one.path for one in dataset.records]
    assert report.lines() == [f"{dataset.source}: 10 images, 10 boxes"]


def test_bad_images_are_left_out_and_listed(dataset: Dataset, tmp_path: Path) -> None:
    dataset.records[2].path.write_bytes(b"text")
    dataset.records[7].path.unlink()
    wrong = replace(dataset.records[4], size=(30, 20))
    dataset = replace(dataset, records=(*dataset.records[:4], wrong, *dataset.records[5:]), notes=("a note",))
    report = scan(dataset, max_bad=0.5, bad_files=tmp_path / "bad_files.csv")
    assert [one.path.stem for one in report.dataset.records] == list("0135689")
    reasons = {file.path.stem: file.reason for file in report.bad}
    assert list(reasons) == ["2", "4", "7"]
    assert reasons["2"].startswith("not an image")
    assert reasons["4"].startswith("image of 30x20 pixels (annotated as 20x30)")
    assert reasons["7"].startswith("cannot be read: No such file")
    with (tmp_path / "bad_files.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["file", "reason"] and [Path(row[0]).stem for row in rows[1:]] == ["2", "4", "7"]
    report.write_bad_files(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "bad_files.csv").read_text()
    lines = report.lines()
    assert lines[1] == "a note" and lines[2].startswith("3 images cannot be used") and "2.png: not an" in lines[3]


def test_many_bad_images_are_not_all_printed(dataset: Dataset) -> None:
    for one in dataset.records[:7]:
        one.path.write_bytes(b"")
    assert scan(dataset, max_bad=0.9).lines()[-1] == "  and 2 more"


def test_too_many_bad_images(dataset: Dataset, tmp_path: Path) -> None:
    dataset.records[3].path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"x\.json: 1 of 10 images cannot be used .at most 1%.; the first: .*3\.png"):
        scan(dataset, bad_files=tmp_path / "bad.csv")
    assert "3.png,empty file" in (tmp_path / "bad.csv").read_text()
    many = replace(dataset, records=dataset.records * 20)  # 20 of 200 bad
    with pytest.raises(DatasetError, match="20 of 200"):
        scan(many)
    few = replace(dataset, records=(*dataset.records, *dataset.records[:3] * 40))  # 1 of 130
    assert len(scan(few).dataset) == 129
    with pytest.raises(DatasetError, match=r"1 of 130 images cannot be used .at most 0%."):
        scan(replace(few, split="val"))


def test_nothing_left(dataset: Dataset) -> None:
    dataset.records[3].path.write_bytes(b"")
    with pytest.raises(DatasetError, match="1 of 1 images cannot be used"):
        scan(replace(dataset, records=dataset.records[3:4]), max_bad=1.0)
    with pytest.raises(DatasetError, match=r"0 of 0 images cannot be used.*it is empty"):
        scan(replace(dataset, records=()))


def test_boxes_by_hand() -> None:
    boxes = [
        [-5, 2, 11, 12],
        [1, 2, 11, 12],
        [1, 2, 11, 12],
        [1, 2, 11, 12],
        [29.5, 0, 40, 9],
        [9, 9, 3, 3],
        [0, 0, 1, 1],
    ]
    labels = [0, 0, 1, 0, 0, 0, 0]
    mended, counts = mend_boxes(record(Path("x"), boxes, labels=labels, areas=np.arange(7.0)))
    assert counts == BoxCounts(kept=3, clipped=1, dropped=2, duplicates=1) and counts.total == 7
    assert mended.boxes.tolist() == [[0, 2, 11, 12], [1, 2, 11, 12], [1, 2, 11, 12], [0, 0, 1, 1]]
    assert mended.labels.tolist() == [0, 0, 1, 0] and mended.areas.tolist() == [0, 1, 2, 6]


@settings(deadline=None, max_examples=100)
@given(boxes=arrays(np.float32, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(-20, 40).map(float)))
def test_every_box_is_accounted_for(boxes: np.ndarray) -> None:
    mended, counts = mend_boxes(record(Path("x"), boxes))
    assert counts.total == len(boxes) and len(mended.boxes) == counts.kept + counts.clipped
    assert (mended.boxes >= 0).all() and (mended.boxes <= [30, 20, 30, 20]).all()
    again, counts = mend_boxes(mended)
    assert counts == BoxCounts(kept=len(mended.boxes))
    np.testing.assert_array_equal(again.boxes, mended.boxes)


def test_boxes_of_a_validation_set_stay(dataset: Dataset) -> None:
    odd = record(dataset.records[0].path, [[-5, 2, 11, 12], [1, 1, 1, 5], [3, 3, 9, 9], [3, 3, 9, 9]])
    train = scan(replace(dataset, records=(odd,)))
    val = scan(replace(dataset, records=(odd,), split="val"))
    assert train.boxes == val.boxes == BoxCounts(kept=1, clipped=1, dropped=1, duplicates=1)
    assert len(train.dataset.records[0].boxes) == 2 and val.dataset.records == (odd,)
    found = "1 reach out of their image, 1 have a side under one pixel, 1 come twice"
    assert train.lines()[-1] == f"boxes cut or left out: {found}"
    assert val.lines()[-1] == f"boxes left as they are: {found}"


def decoded_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stems of the images that are decoded from now on."""
    stems: list[str] = []
    decode = scan_module._decode
    monkeypatch.setattr(scan_module, "_decode", lambda path: stems.append(path.stem) or decode(path))
    return stems


def test_a_second_scan_decodes_only_what_changed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.records[5].path.write_bytes(b"bad")
    first = scan(dataset, max_bad=0.5)
    stems = decoded_by(monkeypatch)
    second = scan(dataset, max_bad=0.5)
    assert stems == [] and second.remembered == 10
    assert (second.bad, second.boxes) == (first.bad, first.boxes) and len(second.dataset) == 9
    os.utime(dataset.records[1].path, ns=(1, 1))
    write_image(dataset.records[5].path, np.ones((20, 30, 3), np.uint8))
    assert scan(dataset).bad == () and sorted(stems) == ["1", "5"]
    scan(dataset, remember=False)
    assert len(stems) == 12


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff", b'{"schema": 99, "files": {}}', b'{"schema": 1, "files": 3}', b"[]"]
)
def test_a_damaged_memory_is_rebuilt(dataset: Dataset, damage: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    scan(dataset)
    memory = Path(dataset.source).parent / ".yolov4_scan.json"
    whole = memory.read_bytes()
    memory.write_bytes(damage)
    stems = decoded_by(monkeypatch)
    assert scan(dataset).remembered == 0 and len(stems) == 10
    assert memory.read_bytes() == whole


def test_an_odd_finding_is_no_finding(dataset: Dataset) -> None:
    scan(dataset)
    memory = Path(dataset.source).parent / ".yolov4_scan.json"
    content = json.loads(memory.read_bytes())
    first = sorted(content["files"])[0]
    for odd in ([1], [1, 2, 3], [1, 2, [3]], "abc", None):
        content["files"][first] = odd
        memory.write_text(json.dumps(content))
        assert scan(dataset).remembered == 0


def test_read_only_folder_uses_the_users_cache(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        if path.name == ".yolov4_scan.json":
            raise PermissionError("read-only")
        return atomic_write(path, **_)

    from data import scan_memory

    atomic_write = scan_memory.atomic_write
    monkeypatch.setattr(scan_memory, "atomic_write", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scan(dataset)
    assert not (tmp_path / ".yolov4_scan.json").exists()
    assert [path.suffix for path in (tmp_path / "cache" / "yolov4").iterdir()] == [".json"]
    assert scan(dataset).remembered == 10
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # nothing can be written at all: still a scan
    assert scan(dataset).remembered == 0


def test_names_that_are_not_utf8(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"bad")
    dataset = replace(dataset, records=(*dataset.records, record(path)))
    for _ in range(2):
        report = scan(dataset, max_bad=0.5, bad_files=tmp_path / "bad.csv")
    assert report.remembered == 11 and r"caf\xe9.png" in (tmp_path / "bad.csv").read_text()
    assert any(printable(path) in line for line in report.lines())


def test_progress_is_for_terminals(dataset: Dataset, capsys: pytest.CaptureFixture) -> None:
    scan(dataset, progress=True)
    assert capsys.readouterr().err == ""
