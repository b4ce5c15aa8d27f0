"""training.checks.anchors: anchors that miss the boxes and boxes too small for the grid are told, sizes by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.painted import CFG
from training.checks.anchors import anchor_findings, head_lines, head_rows
from training.checks.findings import Finding
from utils.cfg import Config, load_cfg, parse_cfg

FIX = "the command that fits anchors"
PAINTED = parse_cfg(CFG, source="painted.cfg")  # anchors 16,16 and 26,26 on cells of 8 pixels, input 64x64


def sizes(*centres: tuple[float, float], each: int = 50, spread: float = 0.1) -> np.ndarray:
    """Boxes about each of some sizes."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(1 - spread, 1 + spread, (each, 2)) * centre for centre in centres])


def findings(wh: np.ndarray, config: Config = PAINTED) -> list[Finding]:
    return list(anchor_findings(config, wh, fix=FIX))


def test_anchors_that_fit_are_fine() -> None:
    assert findings(sizes((16, 16), (26, 26))) == []


def test_anchors_that_miss_the_boxes() -> None:
    (found,) = findings(sizes((16, 16), (60, 12)))
    assert found == Finding(
        "warning",
        "the anchors of painted.cfg reach 50% of the boxes with an IoU above 0.5, anchors fitted to your boxes 100%",
        FIX,
    )


def test_fewer_sizes_than_anchors_are_not_fitted() -> None:
    assert findings(np.full((20, 2), (60.0, 12.0))) == []


def test_many_boxes_are_sampled() -> None:
    (found,) = findings(sizes((16, 16), (60, 12), each=4000))
    assert "reach 50%" in found.what or "reach 49%" in found.what or "reach 51%" in found.what


@pytest.mark.parametrize(
    ("small", "fix"),
    [
        ((3, 3), "a larger input: --size 88"),  # half a cell is 4 pixels: 4 / 3 of 64, on cells of 8
        ((1, 1), "cut the images into tiles, so that the objects are larger in the network's input"),
    ],
)
def test_boxes_under_half_a_cell(small: tuple[int, int], fix: str) -> None:
    many = findings(np.concatenate([sizes((16, 16), (26, 26), each=20), np.full((20, 2), small)]))[-1]
    assert (
        many.what == "33% of the boxes are smaller than 4 pixels in an input of 64x64, half a cell of the finest grid"
    )
    assert many.fix == fix and not many.serious
    few = np.concatenate([sizes((16, 16), (26, 26), each=50), sizes(small, each=10)])
    assert not [found for found in findings(few) if "half a cell" in found.what]


def test_coarse_grids_have_finer_rivals() -> None:
    tiny = load_cfg("yolov4-tiny")
    found = findings(sizes((60, 60), (6, 6)), tiny)[-1]
    assert found.fix.endswith("; or a cfg with a finer head, such as yolov4.cfg (stride 8 instead of 16)")
    oblong = replace(tiny, net=replace(tiny.net, width=608, height=416))
    wh = np.concatenate([sizes((60, 60)), np.full((50, 2), 6)])  # half a cell is 8 pixels: 8 / 6 of 416x608, up to 32s
    assert findings(wh, oblong)[-1].fix.startswith("a larger input: --size 576x832; or")


def test_which_head_learns_how_many() -> None:
    lines = list(head_lines(PAINTED, sizes((16, 16), (26, 26))))
    assert lines[0].startswith("100 boxes in an input of 64x64: side ")
    assert lines[1].startswith("2 anchors: average IoU 0.9") and lines[1].endswith("recall 1.00 (boxes above IoU 0.5)")
    assert lines[2:] == ["head of stride  8 learns 100% of the boxes"]
    tiny = load_cfg("yolov4-tiny")
    lines = list(head_lines(tiny, sizes((81, 82), (344, 319))))
    assert lines[2:] == [
        "head of stride 16 learns  50% of the boxes",
        "head of stride 32 learns 100% of the boxes",
        "boxes of an anchor that several heads have are learned by each of them",
    ]


def test_for_a_picture_each_anchor_is_of_one_head() -> None:
    assert head_rows(load_cfg("yolov4-tiny")) == [[0, 1, 2], [3, 4]]
    assert head_rows(load_cfg("yolov4")) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
