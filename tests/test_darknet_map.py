"""evaluation.darknet_map against slow loops and hand arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import darknet_map as module
from evaluation.box_table import BoxTable
from evaluation.coco_files import read_tables
from evaluation.darknet_map import POINTS, DarknetMap, ProposalRecall, darknet_map, proposal_recall
from tests.reference import darknet_map as slow
from tests.reference.darknet_map import Box
from utils.errors import InputError, UsageError

NAMES = ["cat", "dog", "owl"]
IMAGES = [5, 3, 9]


def table(boxes: list[Box], crowd: list[int] | None = None) -> BoxTable:
    corners = np.array([one.box for one in boxes], dtype=np.float64).reshape(-1, 4)
    columns = {"iscrowd": np.array(crowd or [0] * len(boxes)), "score": np.array([one.score for one in boxes])}
    return BoxTable(
        np.array([one.image for one in boxes], dtype=np.int64),
        np.array([one.label for one in boxes], dtype=np.int64),
        np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1),
        columns,
        "boxes",
    )


def measured(truth: list[Box], found: list[Box], **options) -> DarknetMap:
    return darknet_map(IMAGES, table(truth), table(found), NAMES, **options)


# Whole numbers give equal overlaps often, and halves for an IoU of exactly the threshold.
edges = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4), st.integers(0, 4))
boxes_xyxy = edges.map(lambda e: (e[0], e[1], e[0] + e[2], e[1] + e[3]))
rows = st.builds(
    Box, st.sampled_from(IMAGES), st.integers(0, 2), boxes_xyxy, st.integers(1, 50).map(lambda number: number / 51)
)


@settings(max_examples=150)
@given(
    st.lists(rows, max_size=8),
    st.lists(rows, max_size=25, unique_by=lambda one: one.score),
    st.sampled_from(POINTS),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(1, 12),
)
def test_against_loops(truth: list[Box], found: list[Box], points: int, iou_threshold: float, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PAIRS", block)  # so that blocks end everywhere
        result = measured(truth, found, points=points, iou_threshold=iou_threshold)
        recall = proposal_recall(IMAGES, table(truth), table(found), NAMES, iou_threshold=iou_threshold)
    wanted = slow.mean_average_precision(truth, found, len(NAMES), points, iou_threshold, 0.25)
    for key, value in wanted.items():
        assert getattr(result, key) == pytest.approx(value, abs=1e-12), key
    correct, iou_sum = slow.proposal_recall(truth, found, iou_threshold)
    assert recall.correct == correct
    assert recall.mean_iou * len(truth) == pytest.approx(iou_sum)


# Three cats in a row, 10 pixels wide each; a detection is named after the cat it lies on.
CATS = [Box(5, 0, (20 * i, 0, 20 * i + 10, 10)) for i in range(3)]


def on(cat: int, score: float, shift: float = 0.0) -> Box:
    return Box(5, 0, (20 * cat + shift, 0, 20 * cat + 10 + shift, 10), score)


def test_by_hand() -> None:
    found = [on(0, 0.9), on(0, 0.8, 1), on(1, 0.7, 2), on(2, 0.2)]
    # hits 1 0 1 1 of 3 truths: precision 1, 1/2, 2/3, 3/4; from the right never less than 3/4
    result = measured(CATS, found)
    assert result.per_class["cat"] == (pytest.approx(1 / 3 + 2 / 3 * 3 / 4), 2, 1)
    assert result.map == pytest.approx((1 / 3 + 1 / 2) / 3)  # dog and owl count as 0
    assert (result.tp, result.fp, result.fn) == (2, 1, 1)  # the last is not sure enough
    assert result.precision == result.recall == result.f1 == pytest.approx(2 / 3)
    assert result.average_iou == pytest.approx((1 + 8 / 12) / 3)
    # recalls 0, .1, .2, .3 are reached with precision 1, the other seven with 3/4
    assert measured(CATS, found, points=11).per_class["cat"].ap == pytest.approx((4 + 7 * 0.75) / 11)
    assert measured(CATS, found, points=101).per_class["cat"].ap == pytest.approx((34 + 67 * 0.75) / 101)


def test_a_detection_takes_the_truth_it_overlaps_most_taken_or_not() -> None:
    """COCO would give the second detection the other cat; Darknet calls it false."""
    truth = [Box(5, 0, (0, 0, 10, 10)), Box(5, 0, (2, 0, 12, 10))]
    found = [Box(5, 0, (0, 0, 10, 10), 0.9), Box(5, 0, (0.5, 0, 10.5, 10), 0.8)]
    result = measured(truth, found)
    assert (result.tp, result.fp, result.fn) == (1, 1, 1)


def test_of_equal_overlaps_the_first_truth_is_taken() -> None:
    one, other = Box(5, 0, (0, 0, 10, 10)), Box(5, 0, (4, 0, 14, 10))
    found = [Box(5, 0, (2, 0, 12, 10), 0.9), Box(5, 0, (0, 0, 10, 10), 0.8)]  # between both, and on the left one
    assert measured([one, other], found).tp == 1
    assert measured([other, one], found).tp == 2


def test_an_overlap_of_exactly_the_threshold_is_none() -> None:
    truth, found = [Box(5, 0, (0, 0, 10, 10))], [Box(5, 0, (0, 0, 10, 5), 0.9)]
    assert measured(truth, found).tp == 0
    assert measured(truth, found, iou_threshold=0.49).tp == 1


def test_equal_scores_keep_their_order() -> None:
    result = measured(CATS, [on(0, 0.5), on(0, 0.5, 1)])
    assert result.average_iou == pytest.approx(1 / 2)


def test_crowds_are_no_truth() -> None:
    result = darknet_map([5], table(CATS, [0, 1, 0]), table([on(0, 0.9), on(1, 0.8)]), ["cat"])
    assert (result.truths, result.tp, result.fp) == (2, 1, 1)
    recall = proposal_recall([5], table(CATS, [0, 1, 0]), table([on(1, 0.8)]), ["cat"])
    assert (recall.correct, recall.total) == (0, 2)


def test_nothing_found_and_nothing_there() -> None:
    for result in (measured(CATS, []), measured([], [on(0, 0.9)])):
        assert result.map == result.precision == result.recall == result.f1 == result.average_iou == 0
    assert proposal_recall([5], table([]), table([]), NAMES) == ProposalRecall(0, 0, 1, 0.0, 0.0, 0.0)


def test_the_lines_are_darknets() -> None:
    """As its log of a run has them, to the character up to spaces at their ends."""
    result = DarknetMap(
        map=0.243967,
        precision=0.387,
        recall=0.2533,
        f1=0.306,
        tp=9204,
        fp=14585,
        fn=27131,
        average_iou=0.27421,
        per_class={"person": module.ClassMap(0.45271, 4021, 6119)},
        detections=897029,
        truths=36335,
        iou_threshold=0.5,
        conf_threshold=0.25,
        points=0,
    )
    assert "\n".join(result.lines()).splitlines() == [
        " detections_count = 897029, unique_truth_count = 36335",
        "class_id = 0, name = person, ap = 45.27%   \t (TP = 4021, FP = 6119)",
        "",
        " for conf_thresh = 0.25, precision = 0.39, recall = 0.25, F1-score = 0.31",
        " for conf_thresh = 0.25, TP = 9204, FP = 14585, FN = 27131, average IoU = 27.42 %",
        "",
        " IoU threshold = 50 %, used Area-Under-Curve for each unique Recall",
        " mean average precision (mAP@0.50) = 0.243967, or 24.40 %",
    ]
    assert result.as_dict()["per_class"] == {"person": {"ap": 0.45271, "tp": 4021, "fp": 6119}}
    assert "used 11 Recall-points" in "\n".join(measured(CATS, [], points=11).lines())


def test_the_line_of_recall() -> None:
    result = proposal_recall(IMAGES, table(CATS), table([on(0, 0.9), on(1, 0.8, 5)]), NAMES)
    assert list(result.lines()) == ["    3     1     3\tRPs/Img: 0.67\tIOU: 44.44%\tRecall:33.33%"]
    assert result.as_dict()["recall"] == pytest.approx(1 / 3)


def test_real_detections(shared_data: Path) -> None:
    """A hundred images of COCO with made-up detections: loops and tables agree to the last digit."""
    folder = shared_data / "coco_eval"
    tables = read_tables(folder / "instances_val2014_100.json", folder / "instances_val2014_fakebbox100_results.json")
    image_ids, truth, found, names = tables
    result = darknet_map(*tables)

    def boxes(source: BoxTable, keep: np.ndarray, scores: np.ndarray) -> list[Box]:
        low, sides = source.boxes_xywh[:, :2], source.boxes_xywh[:, 2:]
        corners = np.concatenate((low, low + sides), axis=1)
        columns = zip(source.image_ids[keep], source.labels[keep], corners[keep], scores[keep], strict=True)
        return [Box(int(i), int(label), tuple(box), float(score)) for i, label, box, score in columns]

    single = truth.extra["iscrowd"] == 0
    every = np.ones(len(found.labels), dtype=bool)
    wanted = slow.mean_average_precision(
        boxes(truth, single, np.ones(len(single))), boxes(found, every, found.extra["score"]), len(names), 0, 0.5, 0.25
    )
    for key, value in wanted.items():
        assert getattr(result, key) == pytest.approx(value, abs=1e-12), key
    assert len(image_ids) == 100


def test_faults() -> None:
    with pytest.raises(UsageError, match=r"points=7: wanted 0 \(area under the curve\), 11 or 101"):
        measured([], [], points=7)
    with pytest.raises(InputError, match="an image id the truth does not have"):
        measured([], [Box(4, 0, (0, 0, 1, 1), 0.5)])
    with pytest.raises(InputError, match="truth: no images to evaluate on"):
        proposal_recall([], table([]), table([]), NAMES)
