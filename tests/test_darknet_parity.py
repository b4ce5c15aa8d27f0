"""Our pre- and post-processing against a transcription of Darknet's, box by box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.darknet_parity import compare, darknet_rows
from models.darknet import Darknet
from models.postprocess import postprocess
from tests.reference import darknet_detector as reference
from utils.cfg import parse_cfg
from utils.image import network_input

NET = "[net]\nwidth=64\nheight=32\nchannels=3\n"
LAST = "[convolutional]\nfilters=24\nsize=4\nstride=4\nactivation={}\n"
HEAD = "[yolo]\nclasses=3\nnum=4\nmask=0,2,3\nanchors=6,8,10,7,20,14,36,28\nscale_x_y={}\nnew_coords={}\nnms_kind={}\n"
IMAGES = ((40, 90), (70, 30), (32, 64), (1, 200), (57, 1))  # height, width


@pytest.mark.parametrize("size", IMAGES)
@pytest.mark.parametrize("letterbox", [False, True])
def test_the_input_of_the_network(size: tuple[int, int], letterbox: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found, _ = network_input(image, (32, 64), letterbox=letterbox)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 255
    if letterbox and min(reference.fitted(size[1], size[0], 64, 32)) < 1:
        pytest.skip("Darknet makes nothing of such a strip")
    wanted = (reference.letterbox_image if letterbox else reference.resize_image)(planes, 64, 32)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("size", IMAGES[:3])
@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize(("new_coords", "nms_kind"), [(0, "default"), (0, "greedynms"), (1, "diounms")])
def test_the_boxes(size: tuple[int, int], letterbox: bool, new_coords: int, nms_kind: str) -> None:
    text = NET + LAST.format("logistic" if new_coords else "linear") + HEAD.format(1.2, new_coords, nms_kind)
    network = Darknet(parse_cfg(text)).eval()
    torch.nn.init.normal_(network.layers[0].conv.weight, std=0.4)
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    inputs, placed = network_input(image, network.size, letterbox=letterbox)
    with torch.inference_mode():
        raws = network(torch.from_numpy(inputs)[None])
    (ours,) = postprocess(raws, network.heads, [placed], score_threshold=0.05, nms_threshold=0.45, clip=True)
    theirs = darknet_rows(raws, network, (size[1], size[0]), letterbox=letterbox, threshold=0.05, nms=0.45)
    assert len(ours) == len(theirs) > 20
    order = sorted(theirs, key=lambda row: -row["score"])
    np.testing.assert_allclose(ours.scores, [row["score"] for row in order], atol=1e-6)
    assert ours.labels.tolist() == [row["category_id"] for row in order]
    found = torch.cat((ours.boxes[:, :2], ours.boxes[:, 2:] - ours.boxes[:, :2]), 1).numpy()
    wanted = np.array([row["bbox"] for row in order])
    inside = (wanted[:, 2:] > 0).all(1)  # what lies in the padding alone has a negative size there, none here
    np.testing.assert_allclose(found[inside], wanted[inside], atol=1e-3)
    assert inside.sum() > 20 and not found[~inside, 2:].prod(1).any()


def test_a_trained_network_measures_the_same(shared_data: Path) -> None:
    """A few images, as many boxes as there are; benchmarks/darknet_parity.py takes all images and eval.py's limit."""
    folder = shared_data / "weights" / "mobilenetv2-yolov3-nano_coco"
    (weights,) = folder.glob("*.weights")
    result = compare(weights.with_suffix(".cfg"), weights, shared_data / "coco_mini", images=8, max_detections=None)
    assert result.images == 8 and result.ours.ap > 0.05
    assert result.ours.ap == pytest.approx(result.darknet.ap, abs=1e-3)
    assert result.ours.ap50 == pytest.approx(result.darknet.ap50, abs=1e-3)
