"""Label texts: every line accounted for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.formats.yolo_txt import UNREADABLE, find_label, label_paths, read_labels, read_yolo_txt
from utils.errors import DatasetError
from utils.image import write_image


def image(path: Path, height: int = 20, width: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.zeros((height, width, 3), np.uint8))
    return path


def labelled(tmp_path: Path, text: str | bytes, name: str = "x") -> Path:
    path = image(tmp_path / f"{name}.png")
    path.with_suffix(".txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_records(tmp_path: Path) -> None:
    path = labelled(tmp_path, "1 0.5 0.5 0.5 0.4\n0 0.1 0.1 0.2 0.2\n")
    (record,), notes = read_yolo_txt([path], 2)
    assert (record.image_id, record.path, record.size, notes) == (0, path, (20, 40), ())
    np.testing.assert_allclose(record.boxes, [[10, 6, 30, 14], [0, 0, 8, 4]], atol=1e-5)
    assert record.labels.tolist() == [1, 0] and not record.crowd.any()
    assert (record.boxes.dtype, record.labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    "text",
    ["0 .5 .5 .5 .5", "0\t.5\t.5 .5   .5\r\n\r\n", b"\xef\xbb\xbf0 .5 .5 .5 .5\n", "0.0 5e-1 +.5 .5 .5\n\n  \n"],
)
def test_forms_of_a_line(tmp_path: Path, text: str | bytes) -> None:
    (record,), _ = read_yolo_txt([labelled(tmp_path, text)], 1)
    np.testing.assert_allclose(record.boxes, [[10, 5, 30, 15]])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("91 .5 .5 .1 .1", r"class=91: 0\.\.79 \(the data set names 80 classes\)"),
        ("-1 .5 .5 .1 .1", r"class=-1: 0\.\.79"),
        ("1.5 .5 .5 .1 .1", r"class=1\.5: 0\.\.79"),
        ("cat .5 .5 .1 .1", "class=cat: not a number"),
        ("0 .5 .5 .1", "4 columns"),
        ("0 .5 .5 .1 .1 .9", "6 columns"),
        ("0 .5 nan .1 .1", "y=nan: not finite"),
        ("0 .5 .5 inf .1", "w=inf: not finite"),
        ("0 320 .5 .1 .1", r"x=320: 0\.\.1 \(relative"),
        ("0 .5 .5 .1 -.5", r"h=-\.5: 0\.\.1"),
        ("0 " + "9" * 10_000 + " .5 .1 .1", "x=9{40}: not finite"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, fault: str) -> None:
    path = labelled(tmp_path, f"0 .5 .5 .1 .1\n\n{line}\n")
    with pytest.raises(DatasetError, match=rf"x\.txt:3: {fault}") as caught:
        read_yolo_txt([path], 80)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_all_bad_lines_are_counted(tmp_path: Path) -> None:
    paths = [labelled(tmp_path, "7 .5 .5 .1 .1\n0 .5 .5 .1 .1\nx\n", name) for name in "ab"]
    with pytest.raises(
        DatasetError, match=r"a\.txt:1: class=7: 0\.\.0 \(the data set names 1 class\); 3 more bad lines"
    ):
        read_yolo_txt(paths, 1)


def test_a_bad_line_does_not_hide_the_rest(tmp_path: Path) -> None:
    path = labelled(tmp_path, "x\n0 .5 .5 .1 .1\n3 .5 .5 .1 .1\n0 .6 .5 .1 .1").with_suffix(".txt")
    rows, bad = read_labels(path, 1)
    assert rows[:, 1].tolist() == [0.5, 0.6] and [line.kind for line in bad] == ["columns", "class"]


NUMBER = st.floats() | st.floats(0, 1) | st.integers(-3, 90)
LINE = st.lists(NUMBER.map(str) | st.text(max_size=5), max_size=7).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(LINE, max_size=6))
def test_every_line_is_a_box_an_error_or_empty(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.txt"
    text = "\n".join(lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    rows, bad = read_labels(path, 80)
    if bad and bad[0].kind == "file":
        return
    wanted = [line for line in path.read_bytes().decode("utf-8-sig").splitlines() if line.split()]
    assert len(rows) + len(bad) == len(wanted)
    assert np.isfinite(rows).all() and all(math.floor(label) == label for label in rows[:, 0])


def test_unreadable_label_files(tmp_path: Path) -> None:
    path = labelled(tmp_path, b"\xff\xfe0 .5")
    with pytest.raises(DatasetError, match=r"x\.txt: not text"):
        read_yolo_txt([path], 1)
    with path.with_suffix(".txt").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(DatasetError, match=r"x\.txt: 17,825,792 bytes"):
        read_yolo_txt([path], 1)
    assert "cannot be read" in read_labels(tmp_path / "gone.txt", 1)[1][0].message


def test_empty_label_is_background_and_missing_is_noted(tmp_path: Path) -> None:
    paths = [labelled(tmp_path, "", "empty"), image(tmp_path / "m1.png"), image(tmp_path / "m2.png")]
    records, notes = read_yolo_txt(paths, 1)
    assert [len(record.boxes) for record in records] == [0, 0, 0]
    assert len(notes) == 1
    assert "m1.png: no label file (2 of 3 images have none); taken as images without objects" in notes[0]
    assert "m1.png: no label file (1 of 2 images has none); taken as an" in read_yolo_txt(paths[:2], 1)[1][0]
    with pytest.raises(DatasetError, match=r"m1\.png: no label file .*; give each image one, empty where"):
        read_yolo_txt(paths, 1, missing_labels="error")
    with pytest.raises(DatasetError, match=r"m1\.png: none of the 2 images has a label file; looked for .*m1\.txt"):
        read_yolo_txt(paths[1:], 1)


def test_an_unreadable_image_is_left_to_the_scan(tmp_path: Path) -> None:
    path = labelled(tmp_path, "0 .5 .5 .1 .1")
    path.write_bytes(b"broken")
    (record,), _ = read_yolo_txt([path], 1)
    assert record.size == UNREADABLE and record.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("image_path", "wanted"),
    [
        ("d/a.jpg", ["d/a.txt"]),
        ("d/images/a.b.jpg", ["d/images/a.b.txt", "d/labels/a.b.txt"]),
        ("d/images/train/a.PNG", ["d/images/train/a.txt", "d/labels/train/a.txt"]),
        ("d/images/train2017/a.jpg", ["d/labels/train2017/a.txt", "d/images/train2017/a.txt"]),
        ("VOC/JPEGImages/a.jpg", ["VOC/labels/a.txt", "VOC/JPEGImages/a.txt"]),
        ("images/x/images/a.jpg", ["images/x/images/a.txt", "images/x/labels/a.txt", "labels/x/images/a.txt"]),
        ("images.jpg", ["images.txt"]),
    ],
)
def test_where_labels_lie(image_path: str, wanted: list[str]) -> None:
    assert [str(path) for path in label_paths(Path(image_path))] == wanted


def test_the_first_label_that_exists_counts(tmp_path: Path) -> None:
    path = image(tmp_path / "images" / "a.png")
    assert find_label(path) is None
    other = tmp_path / "labels" / "a.txt"
    other.parent.mkdir()
    other.touch()
    assert find_label(path) == other
    path.with_suffix(".txt").touch()
    assert find_label(path) == path.with_suffix(".txt")
