"""The same data set in all its forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.formats.dataset import Dataset, load_dataset
from data.loading.reader import ALL_DETAIL, NOT_READING, Detail, SampleReader, check_size
from utils.errors import DatasetError, ImageError, InputError
from utils.image import write_image
from utils.structures import ImageRecord

SIZE = (40, 80)
BOXES = {"a": [(0, 10, 10, 30, 30), (1, 40, 20, 80, 40)], "b": [], "c": [(1, 0, 0, 20, 10)]}
FORMS = ("coco", "coco images", "coco 2017", "coco json", "darknet", "darknet beside", "yaml")


def make(root: Path, form: str) -> Path:
    """Write the data set as ``form`` and return what --data would be; "val" holds image c alone."""
    for split, stems in (("train", "ab"), ("val", "c")):
        folder = {
            "coco": split,
            "coco images": "images",
            "coco 2017": f"{split}2017",
            "coco json": "images",
            "darknet": f"images/{split}2017",
            "darknet beside": f"obj/{split}",
            "yaml": f"images/{split}",
        }[form]
        for stem in stems:
            (root / folder).mkdir(parents=True, exist_ok=True)
            write_image(root / folder / f"{stem}.png", np.full((*SIZE, 3), ord(stem), np.uint8))
        if form.startswith("coco"):
            write_coco(root, form, split, stems)
        else:
            write_labels(root, folder if "beside" in form else folder.replace("images", "labels"), stems)
            lines = "".join(f"{folder}/{stem}.png\n" for stem in stems)
            (root / f"{split}.txt").write_text(lines)
    (root / "x.names").write_text("cat\ndog\n")
    (root / "x.data").write_text("classes=2\ntrain=train.txt\nvalid=val.txt\nnames=x.names\n")
    (root / "x.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return {"coco json": root / "some.json", "yaml": root / "x.yaml"}.get(
        form, root / "x.data" if form.startswith("darknet") else root
    )


def write_coco(root: Path, form: str, split: str, stems: str) -> None:
    images = [{"id": k, "file_name": f"{s}.png", "width": SIZE[1], "height": SIZE[0]} for k, s in enumerate(stems)]
    rows = [(k, *box) for k, stem in enumerate(stems) for box in BOXES[stem]]
    annotations = [
        {"id": number + 1, "image_id": k, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, (k, label, x1, y1, x2, y2) in enumerate(rows)
    ]
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    name = {"coco 2017": f"annotations/instances_{split}2017.json", "coco json": "some.json"}.get(form)
    if form == "coco json" and split == "val":
        return
    path = root / (name or f"instances_{split}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def write_labels(root: Path, folder: str, stems: str) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for stem in stems:
        lines = []
        for label, x1, y1, x2, y2 in BOXES[stem]:
            centre = ((x1 + x2) / 2 / SIZE[1], (y1 + y2) / 2 / SIZE[0])
            lines.append(f"{label} {centre[0]} {centre[1]} {(x2 - x1) / SIZE[1]} {(y2 - y1) / SIZE[0]}\n")
        (root / folder / f"{stem}.txt").write_text("".join(lines))


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_give_the_same_records(tmp_path: Path, form: str) -> None:
    path = make(tmp_path, form)
    for split, stems in (("train", "ab"), ("val", "c")):
        if form == "coco json" and split == "val":
            stems = "ab"  # one json is both splits
        dataset = load_dataset(path, split)
        assert (dataset.names, dataset.category_ids, dataset.split) == (("cat", "dog"), (1, 2), split)
        assert len(dataset) == len(stems) and Path(dataset.source).is_file() and dataset.notes == ()
        for image_id, (record, stem) in enumerate(zip(dataset.records, stems, strict=True)):
            assert (record.image_id, record.size, record.path.name) == (image_id, SIZE, f"{stem}.png")
            assert record.path.is_file()
            np.testing.assert_allclose(
                record.boxes, np.array([box[1:] for box in BOXES[stem]]).reshape(-1, 4), atol=1e-4
            )
            assert record.labels.tolist() == [box[0] for box in BOXES[stem]]
            assert not record.crowd.any() and record.crowd.dtype == bool


def test_names_given(tmp_path: Path) -> None:
    dataset = load_dataset(make(tmp_path, "coco"), "train", names=("dog", "cat"))
    assert dataset.names == ("dog", "cat") and dataset.records[0].labels.tolist() == [1, 0]
    dataset = load_dataset(make(tmp_path, "yaml"), "train")
    renamed = load_dataset(tmp_path / "x.yaml", "train", names=("Katze", "Hund"))
    assert renamed.names == ("Katze", "Hund")
    assert renamed.records[0].labels.tolist() == dataset.records[0].labels.tolist()
    with pytest.raises(InputError, match=r"x\.yaml: 1 names .wanted 2"):
        load_dataset(tmp_path / "x.yaml", "train", names=("one",))


def test_missing_labels_are_noted_or_refused(tmp_path: Path) -> None:
    path = make(tmp_path, "yaml")
    (tmp_path / "labels/train/b.txt").unlink()
    assert "b.png: no label file" in load_dataset(path, "train").notes[0]
    with pytest.raises(DatasetError, match=r"b\.png: no label file"):
        load_dataset(path, "train", missing_labels="error")


def test_descriptions_in_a_folder_are_named(tmp_path: Path) -> None:
    make(tmp_path, "yaml")
    with pytest.raises(DatasetError, match=r"wanted a COCO folder\); for another form give its file: .*/x\.yaml$"):
        load_dataset(tmp_path, "train")


def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path) -> None:
    path = make(tmp_path, "yaml")
    assert len(load_dataset(path.rename(tmp_path / "X.YAML"), "train")) == 2


def test_newest_annotations_are_taken(tmp_path: Path) -> None:
    root = make(tmp_path, "coco 2017")
    (root / "annotations" / "instances_train2014.json").write_text("{}")
    assert load_dataset(root, "train").source.endswith("instances_train2017.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", r"gone: no such file or folder \(wanted a \.data"),
        ("a.csv", r"a\.csv: unknown kind '\.csv'"),
        (".", r"no instances_train\.json in it, nor in annotations/"),
    ],
)
def test_nothing_to_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / name, "train")


def test_file_outside_on_request(tmp_path: Path) -> None:
    path = make(tmp_path, "coco json")
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = "../images/a.png"
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="leads out of the image folder"):
        load_dataset(path, "train")
    assert load_dataset(path, "train", allow_outside=True).records[0].path.is_file()


def test_reader_reads_samples_and_notes_what_it_reads(tmp_path: Path) -> None:
    dataset = load_dataset(make(tmp_path, "coco"), "train")
    marks = torch.zeros(1, dtype=torch.int64)
    reader = SampleReader(dataset.records, reading=marks)
    sample = reader[0]
    assert len(reader) == 2 and (sample.image == ord("a")).all() and sample.image.shape == (*SIZE, 3)
    assert sample.boxes is dataset.records[0].boxes and marks.tolist() == [NOT_READING]
    dataset.records[1].path.write_bytes(b"")
    with pytest.raises(ImageError, match="empty file"):
        reader[1]
    assert marks.tolist() == [1]


def test_sizes_are_checked() -> None:
    empty = np.zeros(0, np.int64)
    record = ImageRecord(1, Path("x.png"), (4, 40_000), np.zeros((0, 4), np.float32), empty, empty > 0)
    with pytest.raises(DatasetError, match=r"x\.png: image of 3x4 pixels \(annotated as 40000x4\)"):
        check_size(record, (4, 3))
    with pytest.raises(DatasetError, match=r"x\.png: 40000 pixels long \(at most 32766\)"):
        check_size(record, (4, 40_000))


@pytest.mark.parametrize(
    ("size", "reduction"),
    [
        ((199, 400), 1),
        ((200, 299), 1),
        ((200, 300), 2),
        ((399, 599), 2),
        ((799, 1199), 4),
        ((800, 1200), 8),
        ((9000, 9000), 8),
    ],
)
def test_reduction_keeps_what_is_needed(size: tuple[int, int], reduction: int) -> None:
    assert Detail((100, 150)).reduction(size) == reduction
    assert ALL_DETAIL.reduction(size) == 1 and ALL_DETAIL.size(size) == size


def test_reader_reduces_image_and_boxes(tmp_path: Path) -> None:
    image = np.zeros((201, 301, 3), np.uint8)
    image[40:120, 60:200] = 255
    write_image(tmp_path / "x.jpg", image)
    empty, boxes = np.zeros(1, np.int64), np.float32([[60, 40, 200, 120]])
    record = ImageRecord(1, tmp_path / "x.jpg", (201, 301), boxes, empty, empty > 0)
    sample = SampleReader([record], detail=Detail((50, 75)))[0]
    assert sample.image.shape == (51, 76, 3) and sample.boxes.tolist() == [[15, 10, 50, 30]]
    assert sample.image[11:29, 16:49].min() > 200 and record.boxes.tolist() == [[60, 40, 200, 120]]
    with pytest.raises(DatasetError, match=r"image of 304x204 pixels \(annotated as 640x480\)"):
        SampleReader([replace(record, size=(480, 640))], detail=Detail((100, 100)))[0]


def test_real_data(shared_data: Path) -> None:
    for name, counts in (("bccd", (205, 87)), ("coco_mini", (2651, 505))):
        sets = [load_dataset(shared_data / name, split) for split in ("train", "val")]
        assert tuple(map(len, sets)) == counts and sets[0].names == sets[1].names
        assert isinstance(sets[0], Dataset) and all(record.path.is_file() for record in sets[1].records)
