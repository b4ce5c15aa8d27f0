"""Three optimiser steps of whole networks against what Darknet made of the same weights, images and boxes.

The stored numbers come from Darknet's CPU build, whose backward pass has two faults that its GPU code, and ours, do
not have. They are put into our network here, so that all else can be compared:

* a convolution overwrites the gradient of the layer before it (``col2im`` clears its target), so what a shortcut had
  already sent there is lost;
* the gradient of a route is not cleared between mini-batches, so it piles up, unless a convolution overwrites it.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.darknet import Darknet
from models.losses.darknet import DarknetLoss
from models.weights import load_darknet_weights, save_darknet_weights
from utils.boxes import cxcywh_to_xyxy
from utils.cfg import load_cfg
from utils.cfg_layers import Convolutional, Route, Shortcut
from utils.optim import learning_rate, make_optimizer, set_learning_rate
from utils.structures import Targets

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "golden"
_TRAINING = Path(os.environ.get("DARKNET_GOLDEN", _DEFAULT)) / "training"
_CASES = sorted(path.name for path in _TRAINING.glob("*.npz"))
_HEADER = 20  # bytes of a .weights file before its floats
_GRADIENTS = {"gw": ("conv.weight",), "gb": ("bn.bias", "conv.bias"), "gs": ("bn.weight",)}


@pytest.fixture(scope="module")
def recipe(darknet_golden: Path) -> ModuleType:
    """Draws the weights and images that Darknet was given."""
    spec = importlib.util.spec_from_file_location("recipe", darknet_golden / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Run:
    """A network about to be trained as Darknet's CPU build trained it."""

    def __init__(self, case: str, recipe: ModuleType, folder: Path) -> None:
        cfg = _TRAINING / f"{case.split('.')[0]}.cfg"
        self.stored = np.load(_TRAINING / case)
        self.weights = folder / "now.weights"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the recipe leaves closing its cfg to Python
            recipe.write_weights(str(cfg), str(self.weights), 7)
        self.network = Darknet(load_cfg(cfg)).train()
        load_darknet_weights(self.network, self.weights)
        copy_cpu_faults(self.network)
        self.criterion = DarknetLoss(self.network.heads)
        self.optimizer = make_optimizer(self.network, self.network.config.net)
        self.images = torch.from_numpy(recipe.make_input(77, 4, 3, 64, 96))

    def backward(self, step: int) -> None:
        """The two mini-batches of a step, their costs compared."""
        for part, truth in enumerate(np.split(self.stored["truth"], 2)):
            losses = self.criterion(self.network(self.images[2 * part : 2 * part + 2]), targets_of(truth))
            (losses.total / self.network.config.net.batch).backward()
            assert losses.total.item() == pytest.approx(self.stored[f"s{step}_d{part}_l15_cost"].item(), rel=1e-5)

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


def targets_of(truth: np.ndarray) -> Targets:
    """Darknet's truth rows (B, 20, 6) as targets; float64, for some centres lie exactly between two cells."""
    image, row = np.nonzero(truth[..., 0])
    rows = torch.from_numpy(truth[image, row])
    boxes = cxcywh_to_xyxy(rows[:, :4].double()) * torch.tensor([96, 64, 96, 64])
    return Targets(torch.from_numpy(image), rows[:, 4].long(), boxes, torch.zeros(len(rows)).bool())


def assert_close(ours: Tensor, darknet: np.ndarray, tolerance: float, place: str) -> None:
    """Equal but for ``tolerance`` times the largest value."""
    wanted = torch.from_numpy(darknet).view_as(ours)
    error = (ours - wanted).abs().max() / wanted.abs().max()
    assert error < tolerance, f"{place}: {error:.1e}"


@pytest.mark.parametrize("case", _CASES)
def test_three_steps_are_darknets(case: str, recipe: ModuleType, tmp_path: Path):
    run = Run(case, recipe, tmp_path)
    for step in range(3):
        rate = learning_rate(run.network.config.net, step + 1)
        assert rate == pytest.approx(run.stored[f"s{step}_lr"].item(), rel=1e-6)
        set_learning_rate(run.optimizer, rate)
        run.optimizer.zero_grad()
        run.backward(step)
        run.optimizer.step()
        if f"s{step}_weights" in run.stored:
            assert_close(torch.from_numpy(run.floats()), run.stored[f"s{step}_weights"], 1e-5, f"step {step}")


@pytest.mark.parametrize("case", [case for case in _CASES if "s0_l0_gw" in np.load(_TRAINING / case)])
def test_gradients_of_every_layer_are_darknets(case: str, recipe: ModuleType, tmp_path: Path):
    run = Run(case, recipe, tmp_path)
    run.backward(0)
    compared = 0
    for index, layer in enumerate(run.network.layers):
        parameters = dict(layer.named_parameters())
        for key, names in _GRADIENTS.items():
            for parameter in (parameters[name] for name in names if name in parameters):
                if f"s0_l{index}_{key}" not in run.stored:
                    continue
                ascent = -parameter.grad * run.network.config.net.batch
                assert_close(ascent, run.stored[f"s0_l{index}_{key}"], 1e-5, f"layer {index}, {key}")
                compared += 1
    assert compared == sum(key[-3:] in ("_gw", "_gb", "_gs") for key in run.stored)
