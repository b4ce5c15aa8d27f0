"""The network against numbers that Darknet computed: raw heads, decoded outputs, detections."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import load_network
from models.darknet import Darknet
from models.postprocess import postprocess
from tests.golden_cases import forward_cases, some, write_weights
from utils.boxes import xyxy_to_cxcywh
from utils.image import letterbox_of
from utils.structures import Detections


class Case:
    """One cfg with its numbers, its regenerated weights loaded."""

    def __init__(self, golden: Path, name: str, folder: Path) -> None:
        cfg = golden / "forward" / f"{name}.cfg"
        self.facts = json.loads(cfg.with_suffix(".json").read_text())
        self.arrays = dict(np.load(cfg.with_suffix(".npz")))
        self.tolerance = 2e-3 if "calib" in self.arrays else 1e-5
        self.weights = folder / f"{name}.weights"
        calib = self.arrays["calib"].astype(np.float32) if "calib" in self.arrays else None
        write_weights(golden, cfg, self.weights, self.facts["weights_seed"], calib)
        self.network = load_network(cfg, self.weights, fuse=False)
        with torch.inference_mode():
            self.raws = self.network(torch.from_numpy(self.arrays["input"]))


@pytest.fixture(scope="module", params=some(forward_cases(), "forward"))
def case(request: pytest.FixtureRequest, darknet_golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(darknet_golden, request.param, tmp_path_factory.mktemp("golden"))
    yield case
    case.weights.unlink()


def test_the_recipe_wrote_the_weights_that_darknet_had(case: Case) -> None:
    digest = hashlib.sha256(case.weights.read_bytes()).hexdigest()
    assert digest == case.facts["weights_sha256"]
    assert case.network.graph.parameters == case.facts["num_params"]


def test_raw_heads(case: Case) -> None:
    assert len(case.raws) == len(case.network.heads) > 0
    for head, raw in zip(case.network.heads, case.raws, strict=True):
        _assert_close(raw[0], case.arrays[f"l{head.index}_pre"], case.tolerance)


def test_activated_heads(case: Case) -> None:
    for head, raw in zip(case.network.heads, case.raws, strict=True):
        wanted = case.arrays[f"l{head.index}_out"]
        _assert_close(head.activate(raw)[0].reshape(wanted.shape), wanted, case.tolerance)


def test_every_layer_in_passing(case: Case) -> None:
    """Mean, mean |x| and rms of each layer: the first that differs is where to look."""
    found = _statistics(case.network, torch.from_numpy(case.arrays["input"]))
    assert len(found) == len(case.arrays["layers"]) - len(case.network.heads)
    for index, (shape, statistics) in found.items():
        row = case.arrays["layers"][index]
        assert shape == tuple(row[2:5]), f"layer {index}"
        np.testing.assert_allclose(statistics, row[5:8], atol=case.tolerance, rtol=1e-4, err_msg=f"layer {index}")


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("stage", ["raw", "nms"])
def test_detections(case: Case, letterbox: bool, stage: str) -> None:
    original = (case.facts["img_h"], case.facts["img_w"])
    placed = letterbox_of(original, case.network.size, letterbox=letterbox)
    threshold = case.facts["thresh"]
    (found,) = postprocess(
        case.raws,
        case.network.heads,
        [placed],
        score_threshold=threshold,
        nms_threshold=0.45 if stage == "nms" else 1.0,
    )
    wanted = case.arrays[f"dets_letter{int(letterbox)}_{stage}"]
    # Which of two overlapping boxes with equal scores survives is up to Darknet's sort; scores saturate at 1.
    ties = stage == "nms" and _tied(case.arrays[f"dets_letter{int(letterbox)}_raw"])
    lost = len(wanted) // 200 if ties else 0
    _assert_same_detections(found, wanted, original, threshold, case.tolerance, lost)


def test_a_fused_network_gives_the_same(case: Case) -> None:
    fused = copy.deepcopy(case.network).fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    with torch.inference_mode():
        for one, other in zip(case.raws, fused(torch.from_numpy(case.arrays["input"])), strict=True):
            _assert_close(one, other.numpy(), case.tolerance)


def _statistics(network: Darknet, images: torch.Tensor) -> dict[int, tuple[tuple[int, ...], list[float]]]:
    """Shape, and mean, mean |x|, rms, of what each layer but the heads puts out."""
    found = {}

    def record(index: int) -> Callable[[nn.Module, tuple, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            values = output[0].double()
            means = [values.mean(), values.abs().mean(), values.square().mean().sqrt()]
            found[index] = (tuple(values.shape), [float(mean) for mean in means])

        return hook

    layers = enumerate(network.layers)
    handles = [layer.register_forward_hook(record(i)) for i, layer in layers if layer not in network.heads]
    with torch.inference_mode():
        network(images)
    for handle in handles:
        handle.remove()
    return found


def _assert_close(found: torch.Tensor, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, atol=tolerance, rtol=1e-6)  # a few ULP of a large value


def _assert_same_detections(
    found: Detections, wanted: np.ndarray, original: tuple[int, int], threshold: float, tolerance: float, lost: int = 0
) -> None:
    """Compare as sets: who lies clear of the threshold must have a partner on the other side, but for ``lost``."""
    height, width = original
    boxes = xyxy_to_cxcywh(found.boxes) / torch.tensor([width, height, width, height])
    mine = torch.cat((boxes, found.scores[:, None]), 1).double()
    theirs = torch.from_numpy(wanted[:, [0, 1, 2, 3, 6]]).double()
    labels = torch.from_numpy(wanted[:, 5])
    alone = 0
    for label in labels.unique():
        one, other = mine[found.labels == label], theirs[labels == label]
        near = tolerance * (1 + other[:, :4].abs().amax(1))  # sizes are exponentials: their error is relative
        partners = torch.cdist(one, other, p=math.inf) < near
        alone += int((one[~partners.any(1), 4] > threshold + tolerance).sum())
        alone += int((other[~partners.any(0), 4] > threshold + tolerance).sum())
    assert alone <= lost
    assert abs(len(mine) - len(theirs)) <= lost + (theirs[:, 4] < threshold + tolerance).sum()


def _tied(detections: np.ndarray) -> bool:
    """Whether two detections of a class have exactly the same score."""
    return len(np.unique(detections[:, 5:7], axis=0)) < len(detections)
