"""From an image file to boxes as Darknet's own program finds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

import detect
from tests.golden_cases import detect_cases, some

THRESHOLD = 0.1  # of the golden runs
VIDEO_NETWORK = "yolo-fastest-1.1-xl"
Found = tuple[int, float, np.ndarray]  # class, score, xyxy in pixels


@pytest.fixture(scope="module", params=some(detect_cases(), "detect"))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_data: Path, darknet_golden: Path
) -> tuple[dict[str, list[Found]], dict[str, list[Found]]]:
    """Objects of every image by Darknet and by detect.py."""
    name, _, mode = request.param.rpartition("_")
    weights = weights_of(name, shared_data)
    report = tmp_path_factory.mktemp("detect") / f"{mode}.json"
    flags = ["--cfg", str(weights.with_suffix(".cfg")), "--weights", str(weights), f"--{mode}", "--no-save"]
    flags += ["--source", str(darknet_golden / "detect"), "--score-threshold", str(THRESHOLD), "--json", str(report)]
    detect.main([*flags, "--device", "cpu", "--precision", "fp32", "--batch", "4"])
    frames = json.loads(report.read_text())["frames"]
    sizes = {Path(frame["source"]).name: (frame["height"], frame["width"]) for frame in frames}
    ours = {Path(frame["source"]).name: list(read_ours(frame)) for frame in frames}
    golden = json.loads((darknet_golden / "detect" / f"{request.param}.json").read_text())
    theirs = {image["filename"]: list(read_theirs(image, *sizes[image["filename"]])) for image in golden}
    return theirs, ours


def weights_of(name: str, shared_data: Path) -> Path:
    """The trained network a golden run names; there must be exactly one."""
    (found,) = (shared_data / "weights").rglob(f"{name}.weights")
    return found


def read_ours(frame: dict) -> Iterator[Found]:
    for found in frame["detections"]:
        yield found["label"], found["score"], np.array(found["box"])


def read_theirs(image: dict, height: int, width: int) -> Iterator[Found]:
    for found in image["objects"]:
        place = found["relative_coordinates"]
        centre = np.array([place["center_x"], place["center_y"]])
        half = np.array([place["width"], place["height"]]) / 2
        box = np.concatenate([centre - half, centre + half]) * (width, height, width, height)
        yield found["class_id"], found["confidence"], box


def without_partner(wanted: list[Found], offered: list[Found]) -> list[Found]:
    """Those of ``wanted`` clearly above the threshold that have no partner in ``offered``; one partner serves once."""
    left, alone = list(offered), []
    for label, score, box in wanted:
        if score <= THRESHOLD + 0.01:
            continue
        fits = [
            index
            for index, (other, confidence, edges) in enumerate(left)
            if other == label and abs(confidence - score) <= 0.002 and np.abs(edges - box).max() <= 0.5
        ]
        if fits:
            left.pop(fits[0])
        else:
            alone.append((label, score, box))
    return alone


def test_every_object_of_darknet_is_found(pair: tuple[dict[str, list[Found]], dict[str, list[Found]]]) -> None:
    theirs, ours = pair
    assert theirs.keys() == ours.keys() and any(theirs.values())
    assert {name: without_partner(theirs[name], ours[name]) for name in theirs} == {name: [] for name in theirs}


def test_nothing_else_is_found(pair: tuple[dict[str, list[Found]], dict[str, list[Found]]]) -> None:
    theirs, ours = pair
    assert {name: without_partner(ours[name], theirs[name]) for name in ours} == {name: [] for name in ours}


@pytest.mark.slow
@pytest.mark.parametrize(("video", "frames", "rate"), [("car-detection.mp4", 377, 12.5), ("vtest.avi", 795, 10)])
def test_videos_keep_every_frame(shared_data: Path, tmp_path: Path, video: str, frames: int, rate: float) -> None:
    weights = weights_of(VIDEO_NETWORK, shared_data)
    flags = ["--cfg", str(weights.with_suffix(".cfg")), "--weights", str(weights)]
    flags += ["--source", str(shared_data / "video" / video)]
    detect.main([*flags, "--out", str(tmp_path), "--size", "160", "--device", "cpu"])
    with av.open(str(tmp_path / f"{Path(video).stem}.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
        assert container.streams.video[0].average_rate == rate


def test_the_comparison_can_fail() -> None:
    one = [(0, 0.5, np.array([1.0, 2.0, 3.0, 4.0]))]
    for other in ((1, 0.5, one[0][2]), (0, 0.503, one[0][2]), (0, 0.5, one[0][2] + 0.6)):
        assert len(without_partner(one, [other])) == 1
    assert without_partner(one, one) == [] and len(without_partner(one * 2, one)) == 1
