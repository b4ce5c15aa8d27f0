"""COCO metrics against plain pycocotools, against published numbers, and on inputs that make its tools lie."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluation.coco import BACKENDS, CocoMetrics, coco_results, evaluate
from evaluation.coco_files import evaluate_files
from utils.errors import InputError, UsageError
from utils.structures import Detections, ImageRecord

NAMES = ("cat", "dog", "bird")
CATEGORY_IDS = (3, 17, 90)
TWELVE = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"),
)


def twelve(metrics: CocoMetrics) -> list[float]:
    return [getattr(metrics, key) for key in TWELVE]


def record(image_id: int, boxes=(), labels=(), crowd=None, areas=None) -> ImageRecord:
    return ImageRecord(
        image_id=image_id,
        path=Path(f"{image_id}.jpg"),
        size=(200, 300),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        crowd=np.zeros(len(labels), dtype=bool) if crowd is None else np.array(crowd),
        areas=None if areas is None else np.array(areas),
    )


def found(boxes=(), scores=(), labels=()) -> Detections:
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def oracle(truth: dict, results: list[dict]) -> list[float]:
    """The twelve numbers from pycocotools, used as its manual says."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        evaluator = COCOeval(ground, ground.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return list(evaluator.stats)


def random_case(seed: int) -> tuple[list[ImageRecord], dict[int, Detections], dict, list[dict]]:
    """Objects of all sizes with crowds and mask areas; detections near them, elsewhere, doubled, with tied scores."""
    rng = np.random.default_rng(seed)
    truth, detections = [], {}
    annotations: list[dict] = []
    for image_id in rng.choice(1000, rng.integers(1, 6), replace=False).tolist():
        count = int(rng.integers(0, 6))
        corner = rng.integers(0, 150, (count, 2))
        side = rng.choice([10, 30, 70, 140], (count, 2)) + rng.integers(0, 8, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
        labels = rng.integers(0, rng.integers(1, 4), count)
        crowd = rng.random(count) < 0.15
        areas = (side.prod(axis=1) * rng.choice([0.5, 0.75, 1.0], count)).astype(np.float64)
        truth.append(record(image_id, boxes, labels, crowd, areas))
        for box, label, is_crowd, area in zip(
            boxes.tolist(), labels.tolist(), crowd.tolist(), areas.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
        near = np.repeat(boxes, rng.integers(0, 3, count), axis=0)
        near = near + rng.choice([-6, -2, 0, 0, 3], near.shape)
        low = rng.integers(0, 150, (int(rng.integers(0, 4)), 2))
        guesses = np.concatenate([near, np.concatenate([low, low + rng.integers(0, 90, low.shape)], axis=1)])
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2])
        # Whole pixels and eighths are exact in float32, so both routes see the same numbers.
        scores = np.sort(rng.integers(1, 9, len(guesses)) / 8)[::-1]
        detections[image_id] = found(guesses.tolist(), scores.tolist(), rng.integers(0, 3, len(guesses)).tolist())
    coco = {
        "images": [{"id": one.image_id} for one in truth],
        "categories": [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, NAMES, strict=True)],
        "annotations": annotations,
    }
    return truth, detections, coco, coco_results(detections, CATEGORY_IDS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(BACKENDS))
def test_agrees_with_plain_pycocotools(seed, backend):
    truth, detections, coco, results = random_case(seed)
    metrics = evaluate(truth, detections, NAMES, backend=backend)
    if results:  # pycocotools cannot read an empty list
        np.testing.assert_allclose(twelve(metrics), oracle(coco, results), rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("case", "truth", "results"),
    [
        ("instances_val2014_100", "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"),
        ("gt_dataset", "gt_dataset.json", "dt_dataset.json"),
    ],
)
def test_published_cases(shared_data, case, truth, results, backend):
    folder = shared_data / "coco_eval"
    expected = json.loads((folder / "expected.json").read_text())
    numbers = next(value for key, value in expected.items() if key.startswith(case) and "bbox" in key)
    metrics = evaluate_files(folder / truth, folder / results, backend=backend)
    np.testing.assert_allclose(twelve(metrics), numbers, rtol=0, atol=1e-9 if case.startswith("inst") else 1e-6)


def test_backends_agree_on_real_truth(shared_data, tmp_path):
    """coco_mini with shaken truth as detections: the C++ backend may be the default only if it says the same."""
    path = shared_data / "coco_mini" / "instances_val.json"
    rng = np.random.default_rng(0)
    results = []
    for annotation in json.loads(path.read_text())["annotations"]:
        x, y, w, h = annotation["bbox"]
        shift = rng.normal(0, 0.07, 4) * (w, h, w, h)
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": [x + shift[0], y + shift[1], w * 1.05, h * 0.97],
                "score": round(rng.random(), 2),
            }
        )
    (tmp_path / "results.json").write_text(json.dumps(results))
    one, other = (evaluate_files(path, tmp_path / "results.json", backend=backend) for backend in BACKENDS)
    assert 0.2 < one.ap < 0.8
    np.testing.assert_allclose(twelve(one), twelve(other), rtol=0, atol=1e-9)
    np.testing.assert_allclose(list(one.per_class.values()), list(other.per_class.values()), rtol=0, atol=1e-9)
    np.testing.assert_allclose(one.precision50, other.precision50, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
class TestEdges:
    def test_a_perfect_detector_scores_one(self, backend):
        """Were annotation ids to start at 0, the first object would count as never found."""
        truth = [record(0, [[10, 10, 60, 60]], [0]), record(1, [[10, 10, 60, 60], [80, 10, 199, 150]], [0, 1])]
        detections = {
            one.image_id: found(one.boxes.tolist(), [0.9] * len(one.labels), one.labels.tolist()) for one in truth
        }
        metrics = evaluate(truth, detections, NAMES, backend=backend)
        assert (metrics.ap, metrics.ap50, metrics.ar_100) == pytest.approx((1.0, 1.0, 1.0))
        assert list(metrics.per_class) == list(NAMES)
        assert [one.ap for one in metrics.per_class.values()] == pytest.approx([1.0, 1.0, -1.0])
        assert metrics.precision50.shape == (3, 101)
        assert metrics.precision50[:2].min() == pytest.approx(1) and (metrics.precision50[2] == -1).all()

    @pytest.mark.parametrize("detections", [{}, {7: found()}])
    def test_no_detections_score_zero(self, backend, detections):
        metrics = evaluate([record(7, [[10, 10, 60, 60]], [1]), record(8)], detections, NAMES, backend=backend)
        assert (metrics.ap, metrics.ap50, metrics.ar_100) == (0.0, 0.0, 0.0)
        assert metrics.ap_small == -1.0

    def test_no_objects_cannot_be_measured(self, backend):
        metrics = evaluate([record(7)], {7: found([[0, 0, 5, 5]], [0.5], [0])}, NAMES, backend=backend)
        assert twelve(metrics) == [-1.0] * 12

    def test_a_crowd_is_neither_found_nor_missed(self, backend):
        boxes = [[0, 0, 50, 50], [100, 0, 200, 100]]
        truth = [record(1, boxes, [0, 0], crowd=[False, True])]
        detections = {1: found([[0, 0, 50, 50], [120, 10, 150, 40]], [0.5, 0.9], [0, 0])}
        assert evaluate(truth, detections, NAMES, backend=backend).ap == pytest.approx(1.0)

    def test_size_comes_from_the_mask_area(self, backend):
        truth = [record(1, [[0, 0, 40, 40]], [0], areas=[900.0])]  # box 1600 is medium, mask 900 is small
        detections = {1: found([[0, 0, 40, 40]], [0.5], [0])}
        metrics = evaluate(truth, detections, NAMES, backend=backend)
        assert (metrics.ap_small, metrics.ap_medium) == pytest.approx((1.0, -1.0))

    def test_says_nothing(self, backend, capfd):
        evaluate([record(1, [[0, 0, 9, 9]], [0])], {}, NAMES, backend=backend)
        captured = capfd.readouterr()
        assert captured.out == "" and captured.err == ""


def test_precision_curve_by_hand():
    """Four objects; hits at scores .9 and .7, a false box between: precision 1 up to recall 1/4, then 2/3 to 1/2."""
    boxes = [[0, 0, 20, 20], [50, 0, 70, 20], [100, 0, 120, 20], [150, 0, 170, 20]]
    detections = {1: found([boxes[0], [0, 100, 20, 120], boxes[1]], [0.9, 0.8, 0.7], [0, 0, 0])}
    curve = evaluate([record(1, boxes, [0] * 4)], detections, ["cat"]).precision50[0]
    np.testing.assert_allclose(curve[:26], 1.0)
    np.testing.assert_allclose(curve[26:51], 2 / 3)
    np.testing.assert_allclose(curve[51:], 0.0)


def test_as_dict_is_plain_json():
    metrics = evaluate([record(1, [[0, 0, 9, 9]], [0])], {}, NAMES)
    numbers = json.loads(json.dumps(metrics.as_dict()))
    assert set(numbers) == {*TWELVE, "per_class"}
    assert numbers["per_class"]["dog"] == {"ap": -1.0, "ap50": -1.0}


def test_results_carry_the_data_sets_own_ids():
    results = coco_results({42: found([[1, 2, 11.5, 22]], [0.75], [2])}, CATEGORY_IDS)
    assert results == [{"image_id": 42, "category_id": 90, "bbox": [1.0, 2.0, 10.5, 20.0], "score": 0.75}]


class TestFaults:
    truth = (record(1, [[0, 0, 9, 9]], [0]),)

    @pytest.mark.parametrize(
        ("box", "score", "label", "message"),
        [
            ([0, 0, float("nan"), 9], 0.5, 0, "not finite"),
            ([0, 0, float("inf"), 9], 0.5, 0, "not finite"),
            ([0, 0, 9, 9], float("nan"), 0, "not finite"),
            ([9, 0, 0, 9], 0.5, 0, "negative width or height"),
            ([0, 0, 9, 9], 0.5, 3, r"label outside 0\.\.2"),
            ([0, 0, 9, 9], 0.5, -1, r"label outside 0\.\.2"),
        ],
    )
    def test_detections(self, box, score, label, message):
        with pytest.raises(InputError, match=f"detections: image 1, label .*{message}"):
            evaluate(self.truth, {1: found([box], [score], [label])}, NAMES)

    def test_an_unknown_image(self):
        with pytest.raises(InputError, match=r"image 5, .* image id the truth does not have"):
            evaluate(self.truth, {5: found([[0, 0, 9, 9]], [0.5], [0])}, NAMES)

    def test_broken_truth(self):
        with pytest.raises(InputError, match=r"truth: image 1, .*negative width"):
            evaluate([record(1, [[9, 0, 0, 9]], [0])], {}, NAMES)

    def test_no_images(self):
        with pytest.raises(InputError, match="no images"):
            evaluate([], {}, NAMES)

    def test_an_image_twice(self):
        with pytest.raises(InputError, match="image id 1 comes twice"):
            evaluate([*self.truth, *self.truth], {}, NAMES)

    def test_a_class_twice(self):
        with pytest.raises(InputError, match="class name 'cat' comes twice"):
            evaluate(self.truth, {}, ["cat", "cat"])

    def test_an_unknown_backend(self):
        with pytest.raises(UsageError, match="backend='slow'"):
            evaluate(self.truth, {}, NAMES, backend="slow")


def test_records_without_detections_are_counted():
    lines = "\n".join(evaluate([record(1, [[0, 0, 0, 0]], [0])], {}, ["disc", "square"]).lines()).splitlines()
    assert lines[1].split() == ["disc", "0.000", "0.000"]
    assert lines[2].split() == ["square", "-", "-"]
    assert lines[4] == "AP50 0.000"
