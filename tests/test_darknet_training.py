"""Three optimiser steps of whole networks against what Darknet made of the same weights, images and boxes.

The stored numbers come from Darknet's CPU build, whose backward pass has two faults that its GPU code, and ours, do
not have. They are put into our network here, so that all else can be compared:

* a convolution overwrites the gradient of the layer before it (``col2im`` clears its target), so what a shortcut had
  already sent there is lost;
* the gradient of a route is not cleared between mini-batches, so it piles up, unless a convolution overwrites it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.darknet import Darknet
from models.heads.yolo import YoloHead
from models.losses.darknet import DarknetLoss
from models.weights import load_darknet_weights, save_darknet_weights
from tests.golden_cases import FOLDER, load_recipe, some, training_cases, write_weights
from training.optim import learning_rate, make_optimizer, set_learning_rate
from utils.boxes import cxcywh_to_xyxy
from utils.cfg import load_cfg
from utils.cfg.layers import Convolutional, Route, Shortcut
from utils.structures import Size, Targets

_TRAINING = FOLDER / "training"
_CASES = training_cases()
_SEED_OF_WEIGHTS, _SEED_OF_IMAGES = 7, 77
_HEADER = 20  # bytes of a .weights file before its floats
_GRADIENTS = {"gw": ("conv.weight",), "gb": ("bn.bias", "conv.bias"), "gs": ("bn.weight",)}


class Run:
    """A network about to be trained as Darknet's CPU build trained it."""

    def __init__(self, case: str, folder: Path) -> None:
        cfg = _TRAINING / f"{case.split('.')[0]}.cfg"
        self.stored = dict(np.load(_TRAINING / f"{case}.npz"))
        self.weights = folder / "now.weights"
        write_weights(FOLDER, cfg, self.weights, _SEED_OF_WEIGHTS)
        config = load_cfg(cfg)
        self.net = config.net
        self.network = Darknet(config).train()
        load_darknet_weights(self.network, self.weights)
        copy_cpu_faults(self.network)
        self.criterion = DarknetLoss(self.network.heads)
        self.optimizer = make_optimizer(self.network, self.net)
        shape = (self.net.batch, self.net.channels, self.net.height, self.net.width)
        self.images = torch.from_numpy(load_recipe(FOLDER).make_input(_SEED_OF_IMAGES, *shape))

    @property
    def steps(self) -> int:
        """How many optimiser steps are stored."""
        return 1 + max(int(key[1:].split("_")[0]) for key in self.stored if key.endswith("_lr"))

    def backward(self, step: int) -> None:
        """The mini-batches of a step, their costs compared."""
        parts = self.net.subdivisions
        truths = np.split(self.stored["truth"], parts)
        for part, (images, truth) in enumerate(zip(self.images.chunk(parts), truths, strict=True)):
            losses = self.criterion(self.network(images), targets_of(truth, self.network.size))
            (losses.total / self.net.batch).backward()
            assert losses.total.item() == pytest.approx(self.stored[f"s{step}_d{part}_error"].item(), rel=1e-5)

    def floats(self) -> np.ndarray:
        """All parameters in the order of a .weights file."""
        save_darknet_weights(self.network, self.weights)
        return np.fromfile(self.weights, "<f4", offset=_HEADER)


def copy_cpu_faults(network: Darknet) -> None:
    """Give ``network`` the two faults described above."""
    sections = network.config.layers
    for index, (layer, node) in enumerate(zip(network.layers, network.graph.nodes, strict=True)):
        if isinstance(node.section, Shortcut) and isinstance(sections[node.sources[0] + 1], Convolutional):
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0], inputs[1].detach()))
        if isinstance(node.section, Route) and not isinstance(sections[index + 1], Convolutional):
            pile_up(layer)


def pile_up(layer: nn.Module) -> None:
    """Add to the gradient of the layer's output that of all mini-batches before."""
    left: list[Tensor] = []

    def add(gradient: Tensor) -> Tensor:
        left[:] = [gradient + left[0] if left else gradient]
        return left[0]

    layer.register_forward_hook(lambda _module, _inputs, output: output.register_hook(add) and None)


def targets_of(truth: np.ndarray, size: Size) -> Targets:
    """Darknet's truth rows (B, M, 6) as targets; float64, for some centres lie exactly between two cells."""
    image, row = np.nonzero(truth[..., 0])
    rows = torch.from_numpy(truth[image, row])
    boxes = cxcywh_to_xyxy(rows[:, :4].double()) * torch.tensor([size[1], size[0], size[1], size[0]])
    return Targets(torch.from_numpy(image), rows[:, 4].long(), boxes, torch.zeros(len(rows)).bool())


def assert_close(ours: Tensor, darknet: np.ndarray, tolerance: float, place: str) -> None:
    """Equal but for ``tolerance`` times the largest value."""
    wanted = torch.from_numpy(darknet).view_as(ours)
    error = (ours - wanted).abs().max() / wanted.abs().max()
    assert error < tolerance, f"{place}: {error:.1e}"


def cases_with(key: str) -> list:
    """The trainings that store ``key``."""
    holding = [case for case in _CASES if (_TRAINING / f"{case}.npz").is_file()]
    return some([case for case in holding if key in np.load(_TRAINING / f"{case}.npz")], f"training {key}")


@pytest.mark.parametrize("case", some(_CASES, "training"))
def test_every_step_is_darknets(case: str, tmp_path: Path) -> None:
    run = Run(case, tmp_path)
    compared = 0
    for step in range(run.steps):
        rate = learning_rate(run.net, step + 1)
        assert rate == pytest.approx(run.stored[f"s{step}_lr"].item(), rel=1e-6)
        set_learning_rate(run.optimizer, rate)
        run.optimizer.zero_grad()
        run.backward(step)
        run.optimizer.step()
        if f"s{step}_weights" in run.stored:
            assert_close(torch.from_numpy(run.floats()), run.stored[f"s{step}_weights"], 1e-5, f"step {step}")
            compared += 1
    assert compared


@pytest.mark.parametrize("case", some(_CASES, "training"))
def test_delta_and_cost_of_every_head_are_darknets(case: str, tmp_path: Path) -> None:
    """From Darknet's own output of the layer, so that the layers before it play no part."""
    run = Run(case, tmp_path)
    places = [key.removesuffix("_delta") for key in run.stored if key.endswith("_delta")]
    assert places
    for place in places:
        _, part, layer = (int(number) for number in re.findall(r"\d+", place))
        head = run.network.layers[layer]
        _, *cells = run.network.graph.nodes[layer].outputs
        raw = raw_of(head, run.stored[f"{place}_out"], (run.net.batch // run.net.subdivisions, *cells))
        truth = np.split(run.stored["truth"], run.net.subdivisions)[part]
        losses = DarknetLoss([head])([raw], targets_of(truth, run.network.size))
        losses.total.backward()
        delta = torch.from_numpy(run.stored[f"{place}_delta"]).view_as(raw)
        torch.testing.assert_close(-raw.grad, delta, rtol=1e-5, atol=1e-5, msg=named(place))
        assert losses.total.item() == pytest.approx(run.stored[f"{place}_cost"].item(), rel=1e-5), place


def raw_of(head: YoloHead, output: np.ndarray, shape: tuple[int, int, int]) -> Tensor:
    """The raw map (B, A*E, GH, GW) of a stored output of the layer: its sigmoids and scale undone.

    Args:
        shape: (B, GH, GW).
    """
    grid = torch.from_numpy(output).double().view(shape[0], head.num_anchors, head.entries, *shape[1:])
    scale = head.section.scale_x_y
    xy, wh, scores = grid.split((2, 2, head.entries - 4), dim=2)
    xy = (xy + (scale - 1) / 2) / scale
    if not head.section.new_coords:
        xy, scores = xy.logit(), scores.logit()
    return torch.cat((xy, wh, scores), dim=2).flatten(1, 2).float().requires_grad_()


def named(place: str) -> Callable[[str], str]:
    """A message that begins with ``place``."""
    return lambda text: f"{place}: {text}"


@pytest.mark.parametrize("case", cases_with("s0_d0_l0_fwd"))
def test_activations_of_every_layer_in_training_are_darknets(case: str, tmp_path: Path) -> None:
    run = Run(case, tmp_path)
    found: dict[int, Tensor] = {}
    for index, layer in enumerate(run.network.layers):
        layer.register_forward_hook(lambda _module, _inputs, output, index=index: found.update({index: output}))
    run.network(run.images.chunk(run.net.subdivisions)[0])
    stored = {int(key.split("_")[2][1:]): run.stored[key] for key in run.stored if key.endswith("_fwd")}
    for index, wanted in stored.items():
        assert_close(found[index].detach(), wanted, 1e-5, f"layer {index}")
    assert stored


@pytest.mark.parametrize("case", cases_with("s0_l0_gw"))
def test_gradients_of_every_layer_are_darknets(case: str, tmp_path: Path) -> None:
    run = Run(case, tmp_path)
    run.backward(0)
    compared = 0
    for index, layer in enumerate(run.network.layers):
        parameters = dict(layer.named_parameters())
        for key, names in _GRADIENTS.items():
            for parameter in (parameters[name] for name in names if name in parameters):
                if f"s0_l{index}_{key}" not in run.stored:
                    continue
                ascent = -parameter.grad * run.net.batch
                assert_close(ascent, run.stored[f"s0_l{index}_{key}"], 1e-5, f"layer {index}, {key}")
                compared += 1
    assert compared == sum(key[-3:] in ("_gw", "_gb", "_gs") for key in run.stored)
