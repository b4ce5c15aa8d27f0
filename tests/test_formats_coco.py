"""COCO annotations: what they become, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.formats.coco import read_coco
from utils.errors import DatasetError

GOOD: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "width": 60, "height": 40},
        {"id": 3, "file_name": "sub/a.jpg", "width": 30, "height": 20},
        {"id": 9, "file_name": "empty.jpg", "width": 5, "height": 5},
    ],
    "annotations": [
        {"id": 11, "image_id": 3, "category_id": 90, "bbox": [1, 2, 10.5, 4], "area": 12.5, "iscrowd": 1},
        {"id": 12, "image_id": 7, "category_id": 2, "bbox": [0, 0, 60, 40]},
        {"id": 10, "image_id": 3, "category_id": 5, "bbox": [-3, 0, 5, 5], "area": None},
    ],
    "categories": [{"id": 90, "name": "z"}, {"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
}


def write(tmp_path: Path, content: object) -> Path:
    for name in ("b.jpg", "sub/a.jpg", "empty.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    path = tmp_path / "instances_train.json"
    path.write_text(json.dumps(content))
    return path


def read(tmp_path: Path, content: object, **options: Any) -> tuple:
    return read_coco(write(tmp_path, content), [tmp_path / "nowhere", tmp_path / "images"], **options)


def changed(part: str, row: int, **values: object) -> dict[str, Any]:
    content = copy.deepcopy(GOOD)
    content[part][row].update(values)
    return content


def test_records(tmp_path: Path) -> None:
    records, names, category_ids = read(tmp_path, GOOD)
    assert (names, category_ids) == (("cat", "dog", "z"), (2, 5, 90))
    assert [record.image_id for record in records] == [7, 3, 9]
    assert [record.size for record in records] == [(40, 60), (20, 30), (5, 5)]
    assert records[1].path == tmp_path / "images" / "sub" / "a.jpg"
    assert records[1].boxes.tolist() == [[1, 2, 11.5, 6], [-3, 0, 2, 5]]  # as annotated, not cut
    assert records[1].labels.tolist() == [2, 1] and records[1].crowd.tolist() == [True, False]
    assert records[1].areas.tolist() == [12.5, 25] and records[0].areas.tolist() == [2400]
    assert records[2].boxes.shape == (0, 4) and len(records[2].labels) == 0
    assert records[1].boxes.dtype == np.float32 and records[1].labels.dtype == np.int64


def test_names_order_the_classes(tmp_path: Path) -> None:
    records, names, category_ids = read(tmp_path, GOOD, names=["z", "dog", "cat"])
    assert (names, category_ids) == (("z", "dog", "cat"), (90, 5, 2))
    assert records[1].labels.tolist() == [0, 1]
    with pytest.raises(DatasetError, match=r"3 categories, 2 class names; 'bird', 'cat', 'z' on one side only"):
        read(tmp_path, GOOD, names=["dog", "bird"])


def test_real_data(shared_data: Path) -> None:
    root = shared_data / "bccd"
    records, names, category_ids = read_coco(root / "instances_train.json", [root / "train"])
    assert (len(records), names, category_ids) == (205, ("RBC", "WBC", "Platelets"), (1, 2, 3))
    assert all(record.path.is_file() for record in records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"instances_train\.json: a json list"),
        ({"images": []}, "images is empty"),
        ({**GOOD, "annotations": None}, "no list 'annotations'"),
        ({**GOOD, "images": [3]}, "images holds things that are not objects"),
        ({**GOOD, "images": GOOD["images"] + GOOD["images"][:2]}, "images: id 7, 3 more than once"),
        ({**GOOD, "annotations": GOOD["annotations"] * 2}, "annotations: id 11, 12, 10 more than once"),
        ({**GOOD, "categories": GOOD["categories"] * 2}, "categories: id 90, 2, 5 more than once"),
        (changed("images", 1, id="3"), r"images\[1\]\.id='3': must be an integer; number them anew"),
        (changed("annotations", 1, id=None), r"annotations\[1\]\.id=None: must be an integer"),
        (changed("annotations", 0, category_id=4), "annotation 11: category_id=4 is not among the category ids"),
        (changed("annotations", 0, image_id=1), "annotation 11: image_id=1 is not among the image ids"),
        (changed("annotations", 0, image_id=[1]), r"annotation 11: image_id=\[1\] is not among"),
        (changed("annotations", 2, bbox=[1, 2, math.nan, 4]), "annotation 10: bbox is NaN, infinite"),
        (changed("annotations", 2, bbox=[1, 2, math.inf, 4]), "annotation 10: bbox is NaN, infinite"),
        (changed("annotations", 2, bbox=[1, 2, 10**400, 4]), "annotation 10: bbox is NaN, infinite"),
        (changed("annotations", 2, bbox=[1, 2, 1e39, 4]), "annotation 10: bbox is NaN, infinite or beyond 1e12"),
        (changed("annotations", 2, bbox=[1, 2, 3]), r"annotation 10: bbox=\[1, 2, 3\]: must be \[x, y, width"),
        (changed("annotations", 2, bbox=["1", 2, 3, 4]), "annotation 10: bbox=.*must be"),
        (changed("annotations", 2, bbox=None), "annotation 10: bbox=None"),
        (changed("annotations", 2, area=math.nan), "annotation 10: area is NaN, infinite"),
        (changed("annotations", 2, area="3"), "annotation 10: area='3': must be a number"),
        (changed("images", 0, width=0), "image 7: width=0, height=40: must be pixels"),
        (changed("images", 0, height=None), "image 7: width=60, height=None: must be pixels"),
        (changed("images", 0, file_name=None), "image 7: file_name=None: must be the name"),
        (changed("images", 0, file_name="../x.jpg"), r"image 7: file_name='\.\./x\.jpg' leads out"),
        (changed("images", 0, file_name="/etc/x.jpg"), "leads out of the image folder"),
        (changed("images", 0, file_name="C:\\x.jpg"), "leads out of the image folder"),
        (changed("images", 0, file_name="a\0b.jpg"), "must be the name of a file"),
        (changed("images", 0, file_name="gone.jpg"), r"gone\.jpg is in none of .*nowhere, .*images"),
        (changed("categories", 0, name=3), "category 90: name=3: must be text"),
    ],
)
def test_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_many_wrong_ids_are_counted(tmp_path: Path) -> None:
    annotations = [{"id": k, "image_id": 7, "category_id": 1000 + k, "bbox": [0, 0, 1, 1]} for k in range(9)]
    with pytest.raises(DatasetError, match="annotation 0, 1, 2, 3, 4 and 4 more: category_id="):
        read(tmp_path, {**GOOD, "annotations": annotations})


def test_outside_files_on_request(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").touch()
    records, _, _ = read(tmp_path, changed("images", 0, file_name="../x.jpg"), allow_outside=True)
    assert records[0].path == tmp_path / "images" / ".." / "x.jpg"


def test_not_json(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for content, message in (
        (b'{\n"images": [,', r"instances_train\.json:2: not json"),
        (b"\xff\xfe\xff", "not json: UnicodeDecodeError"),
        (b"[" * 200_000, "not json: RecursionError"),
        (b"9" * 5000, "not json: ValueError"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_coco(path, [])
    with pytest.raises(DatasetError, match=r"gone\.json: cannot be read: No such file"):
        read_coco(tmp_path / "gone.json", [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_damage_is_an_error_with_a_line_or_harmless(tmp_path_factory: Any, data: st.DataObject) -> None:
    content = copy.deepcopy(GOOD)
    part = data.draw(st.sampled_from(sorted(GOOD)))
    row = data.draw(st.integers(0, 2))
    content[part][row][data.draw(st.sampled_from(sorted(content[part][row])))] = data.draw(JSON)
    try:
        records, names, _ = read(tmp_path_factory.getbasetemp(), content)
    except DatasetError as error:
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(record.boxes).all() for record in records)
        assert all((record.labels < len(names)).all() for record in records)
