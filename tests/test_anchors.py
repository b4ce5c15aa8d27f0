"""Anchors: clusters that are known, cfgs that build, the command from flags to files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.commands import main
from models.anchors import anchors_of, count_anchors, share_out, with_anchors
from models.darknet import Darknet
from utils import anchors as module
from utils.anchor_plot import plot_anchors
from utils.anchors import anchor_fit, anchor_lines, box_sizes, fit_anchors, wh_iou
from utils.cfg import format_cfg, load_cfg, parse_cfg
from utils.errors import DatasetError, UsageError
from utils.structures import ImageRecord

PLANTED = np.array([(10, 12), (20, 60), (70, 30), (90, 110), (300, 200)], dtype=np.float64)  # by area


def planted_boxes(seed: int, each: int = 60) -> np.ndarray:
    """Boxes within a tenth of the planted sizes."""
    rng = np.random.default_rng(seed)
    return np.concatenate([anchor * rng.uniform(0.9, 1.1, (each, 2)) for anchor in PLANTED])


def record(size: tuple[int, int], boxes: list[list[float]], crowd: list[bool] | None = None) -> ImageRecord:
    xyxy = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    flags = np.array(crowd or [False] * len(xyxy), dtype=bool)
    return ImageRecord(1, Path("1.jpg"), size, xyxy, np.arange(len(xyxy)) % 2, flags)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_planted_clusters_are_found(data_seed: int, seed: int) -> None:
    wh = planted_boxes(data_seed)
    found = fit_anchors(wh, len(PLANTED), np.random.default_rng(seed))
    np.testing.assert_allclose(found, PLANTED, rtol=0.05)
    fit = anchor_fit(wh, found)
    assert fit.recall == 1
    assert fit.average_iou > 0.9


def test_the_same_seed_gives_the_same_anchors() -> None:
    wh = np.random.default_rng(0).uniform(5, 300, (300, 2))
    one, same = (fit_anchors(wh, 6, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, same)
    assert (np.diff(one.prod(axis=1)) > 0).all()


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_the_fit_is_no_worse_than_where_it_started(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    wh = np.exp(rng.uniform(1, 6, (80, 2)))
    start = module._scattered(wh, count, rng)
    assert anchor_fit(wh, module._k_means(wh, start)).average_iou >= anchor_fit(wh, start).average_iou - 1e-12


def test_an_anchor_without_boxes_goes_where_one_is_missing() -> None:
    wh = np.array([(10.0, 10.0)] * 50 + [(100.0, 100.0), (1000.0, 1000.0)])
    found = module._k_means(wh, np.array([(10.0, 10.0), (5000.0, 5000.0), (6000.0, 6000.0)]))
    assert anchor_fit(wh, found).average_iou == pytest.approx(1)


def test_many_boxes_are_sampled(monkeypatch) -> None:
    monkeypatch.setattr(module, "_MOST_BOXES", 100)
    np.testing.assert_allclose(fit_anchors(planted_boxes(0, 200), 5, np.random.default_rng(0)), PLANTED, rtol=0.05)


def test_overlap_by_hand() -> None:
    wh = np.array([(10.0, 20.0), (5.0, 5.0)])
    np.testing.assert_allclose(wh_iou(wh, np.array([(20.0, 10.0)])), [[100 / 300], [25 / 200]])
    assert anchor_fit(wh, np.array([(10.0, 20.0)])) == (pytest.approx((1 + 25 / 200) / 2), 0.5)
    lines = list(anchor_lines(wh, np.array([(9.6, 20.4)]), wh))
    assert lines[0] == "before: 2 anchors, average IoU 1.0000, recall at IoU 0.5 1.0000"
    assert lines[-1] == "anchors = 10,20"


def test_sizes_are_those_the_network_sees() -> None:
    records = [record((100, 200), [[0, 0, 20, 10], [5, 5, 5, 9], [0, 0, 50, 50]], [False, False, True])]
    assert box_sizes(records, (400, 400)).tolist() == [[40, 40]]  # no box without width, no crowd
    assert box_sizes(records, (400, 400), letterbox=True).tolist() == [[40, 20]]


def test_too_few_boxes() -> None:
    with pytest.raises(DatasetError, match="1 images without a box; anchors are fitted to boxes"):
        box_sizes([record((9, 9), [])], (64, 64))
    with pytest.raises(DatasetError, match="2 different box sizes for 3 anchors"):
        fit_anchors(np.array([(1.0, 1.0), (1.0, 1.0), (2.0, 1.0)]), 3, np.random.default_rng(0))


# Into the cfg


@pytest.mark.parametrize(
    ("name", "count", "masks"),
    [
        ("yolov4", 9, [(0, 1, 2), (3, 4, 5), (6, 7, 8)]),  # fine grid first
        ("yolov3", 9, [(6, 7, 8), (3, 4, 5), (0, 1, 2)]),  # coarse grid first
        ("yolov4-tiny", 6, [(3, 4, 5), (0, 1, 2)]),
        ("yolov4", 5, [(0, 1), (2, 3), (4,)]),
        ("yolov4", 11, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10)]),
        ("Gaussian_yolov3_BDD", 4, [(3,), (2,), (0, 1)]),
    ],
)
def test_small_anchors_go_to_fine_grids(name: str, count: int, masks: list, darknet_zoo: Path) -> None:
    config = load_cfg(darknet_zoo / f"{name}.cfg")
    before = format_cfg(config)
    anchors = np.linspace((8.3, 10.4), (300, 250), count)
    changed = with_anchors(config, anchors)
    assert format_cfg(config) == before
    again = parse_cfg(format_cfg(changed))
    assert again == changed
    with torch.device("meta"):
        heads = Darknet(again).heads
    assert [head.section.mask for head in heads] == masks
    assert [head.num_anchors for head in heads] == [len(mask) for mask in masks]
    assert all(head.section.anchors == heads[0].section.anchors for head in heads)
    np.testing.assert_array_equal(anchors_of(again), np.round(anchors))
    assert count_anchors(again) == count


def test_region_counts_in_cells(darknet_zoo: Path) -> None:
    config = load_cfg(darknet_zoo / "yolov2-tiny.cfg")
    anchors = np.array([(16.0, 32.0), (48.0, 40.0), (200.0, 300.0)])
    changed = with_anchors(config, anchors)
    assert changed.layers[-1].anchors == ((0.5, 1.0), (1.5, 1.25), (6.25, 9.375))
    assert changed.layers[-2].filters == 3 * 85
    with torch.device("meta"):
        assert Darknet(parse_cfg(format_cfg(changed))).heads[0].num_anchors == 3
    np.testing.assert_allclose(anchors_of(changed), anchors)


def test_only_anchors_in_use_count(darknet_zoo: Path) -> None:
    config = load_cfg(darknet_zoo / "yolov4-tiny.cfg")  # masks 3,4,5 and 1,2,3
    assert anchors_of(config).tolist() == [[23, 27], [37, 58], [81, 82], [135, 169], [344, 319]]
    assert count_anchors(config) == 6


def test_cfgs_that_take_no_anchors(darknet_zoo: Path) -> None:
    with pytest.raises(UsageError, match=r"2 anchors for the 3 heads of .*yolov4\.cfg; each needs one"):
        share_out(load_cfg(darknet_zoo / "yolov4.cfg"), 2)
    classifier = load_cfg(darknet_zoo / "darknet19.cfg")
    with pytest.raises(UsageError, match=r"darknet19\.cfg: no \[yolo\], .* section to give anchors to"):
        with_anchors(classifier, PLANTED)
    assert len(anchors_of(classifier)) == count_anchors(classifier) == 0


# The command


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO folder of one image, whose boxes have the planted sizes at an input of 640."""
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    cv2.imwrite(str(folder / "images" / "1.png"), np.zeros((320, 640, 3), np.uint8))
    rows = [
        {"id": i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [1, 1, w, h / 2], "area": w * h / 2, "iscrowd": 0}
        for i, (w, h) in enumerate(planted_boxes(0, 20).tolist(), start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 640, "height": 320}],
        "annotations": rows,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "instances_train.json").write_text(json.dumps(content))
    return folder


def test_the_command(coco: Path, tmp_path: Path, capsys) -> None:
    out, plot = tmp_path / "new" / "my.cfg", tmp_path / "new" / "anchors.png"
    flags = ["--data", str(coco), "--cfg", "yolov4-tiny", "--size", "640", "--num", "5"]
    main(["anchors", *flags, "--out", str(out), "--plot", str(plot)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "100 boxes, stretched to width 640, height 640"
    assert printed[1].startswith("before: 5 anchors, ")
    assert printed[2].startswith("fitted: 5 anchors, ")
    assert printed[4:] == ["counters_per_class = 50, 50", str(out), str(plot)]
    config = load_cfg(out)
    np.testing.assert_allclose(anchors_of(config), PLANTED, rtol=0.06)
    assert Darknet(config).size == (640, 640)
    image = cv2.imread(str(plot))
    assert image.shape[1] > 1000
    assert image.std() > 10
    assert not list(out.parent.glob("*.tmp"))


def test_the_command_without_a_cfg(coco: Path, capsys) -> None:
    main(["anchors", "--data", str(coco), "--num", "3", "--size", "640", "--letterbox"])
    printed = capsys.readouterr().out
    assert printed.startswith("100 boxes, letterboxed to width 640, height 640\nfitted: 3 anchors")
    main(["anchors", "--data", str(coco)])
    assert "stretched to width 416, height 416\nfitted: 9 anchors" in capsys.readouterr().out


def test_a_cfg_to_write_and_none_to_take(coco: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out writes a cfg; give the --cfg it is to be made of"):
        main(["anchors", "--data", str(coco), "--out", str(tmp_path / "a.cfg")])


def test_a_picture_without_heads(tmp_path: Path) -> None:
    plot_anchors(planted_boxes(0), PLANTED, (416, 608), tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")).std() > 10
