"""COCO json files from anywhere: what is read, and what is refused by name."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest

from evaluation.coco_files import evaluate_files, truth_file
from tests.painted import write_painted
from utils.errors import InputError, UsageError

TRUTH = {
    "images": [{"id": 4}, {"id": 9}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"id": 0, "image_id": 4, "category_id": 18, "bbox": [10, 10, 50, 50], "area": 1500, "iscrowd": 0},
        {"id": 1, "image_id": 9, "category_id": 1, "bbox": [0, 0, 20, 20]},
    ],
}
RESULTS = [
    {"image_id": 4, "category_id": 18, "bbox": [10, 10, 50, 50], "score": 0.9},
    {"image_id": 9, "category_id": 1, "bbox": [0, 0, 20, 20], "score": 0.8},
]


def measure(folder, truth, results):
    """Evaluate what is given as objects or as text."""
    for name, content in (("truth.json", truth), ("results.json", results)):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return evaluate_files(folder / "truth.json", folder / "results.json")


def test_a_perfect_detector_scores_one(tmp_path):
    """Annotation id 0 and annotations without area and iscrowd notwithstanding."""
    metrics = measure(tmp_path, TRUTH, RESULTS)
    assert metrics.ap == 1.0
    assert list(metrics.per_class) == ["person", "dog"]  # by category id
    assert (metrics.ap_small, metrics.ap_medium) == (1.0, 1.0)


def test_no_results_score_zero(tmp_path):
    assert measure(tmp_path, TRUTH, []).ap == 0.0


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("[]", "a json list .wanted an object"),
        ("{", "not the json of COCO"),
        ('{"images": NaN}', "it holds NaN"),
        ({"images": [{"id": 1}]}, "categories is NoneType .wanted a list"),
        ({"images": [1]}, "images is list .wanted a list of objects"),
    ],
)
def test_truth_of_another_form(tmp_path, truth, message):
    with pytest.raises(InputError, match=message):
        measure(tmp_path, truth, [])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 1, "id"), 4, "image id 4 comes twice"),
        (("images", 1, "id"), "nine", r"images\[1\]: id='nine' .wanted a whole number"),
        (("images", 1, "id"), True, "id=True"),
        (("categories", 1, "id"), 18, "category id 18 comes twice"),
        (("categories", 1, "name"), 7, r"categories\[1\]: name=7 .wanted a text"),
        (("annotations", 1, "id"), 0, "annotation id 0 comes twice"),
        (("annotations", 1, "image_id"), 5, "image 5, .*an image id the truth does not have"),
        (("annotations", 1, "category_id"), 2, r"annotations\[1\]: category_id=2 is not among"),
        (("annotations", 1, "bbox"), [0, 0, 20], r"annotations\[1\]: bbox=\[0, 0, 20\] .wanted \[left"),
        (("annotations", 1, "bbox"), [0, 0, "20", 20], "bbox="),
        (("annotations", 1, "bbox"), [0, 0, -20, 20], "negative width"),
        (("annotations", 1, "area"), "big", "area='big' .wanted a number"),
    ],
)
def test_broken_truth_is_named(tmp_path, place, value, message):
    truth = copy.deepcopy(TRUTH)
    section, index, key = place
    truth[section][index][key] = value
    with pytest.raises(InputError, match=message):
        measure(tmp_path, truth, RESULTS)


def test_a_result_without_score(tmp_path):
    with pytest.raises(InputError, match=r"results.json: results\[0\]: no score"):
        measure(tmp_path, TRUTH, [{key: value for key, value in RESULTS[0].items() if key != "score"}])


def test_results_in_an_object(tmp_path):
    with pytest.raises(InputError, match=r"results is dict .wanted a list of objects"):
        measure(tmp_path, TRUTH, {"results": RESULTS})


def test_the_truth_of_results(tmp_path, monkeypatch):
    write_painted(tmp_path / "data")
    for data in (tmp_path / "data", tmp_path / "data" / "instances_train.json"):
        assert truth_file(str(data), "train") == tmp_path / "data" / "instances_train.json"
    monkeypatch.setattr("evaluation.coco_files.load_dataset", lambda *_: SimpleNamespace(source="list.txt"))
    with pytest.raises(UsageError, match=r"--results: needs COCO annotations with image ids, --data my\.data has none"):
        truth_file("my.data", "val")
