"""What this project makes of a Darknet cfg: is it built, does it run, learn, and keep .weights files byte for byte."""

from __future__ import annotations

import filecmp
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.darknet import Darknet
from models.graph import plan
from models.losses.criterion import make_criterion
from models.weights import load_darknet_weights, save_darknet_weights
from training.optim import learning_rate, make_optimizer, set_learning_rate
from utils.cfg import Config, with_size
from utils.errors import CfgError
from utils.structures import Targets

_SIDES = (64, 128, 256, 512)
_BLOCK = 2**20  # floats of a random .weights file drawn at a time
_HEADER = np.array([0, 2, 5, 0, 0], "<i4")  # version 0.2.5, trained on no image


def smallest(config: Config) -> Config:
    """The config at the smallest square input that its layers can take; unchanged where they allow no other size."""
    kinds = {section.kind for section in config.layers}
    if kinds & {"connected", "crop"} or max(config.net.height, config.net.width) <= _SIDES[0]:
        return config
    for side in _SIDES:
        try:
            plan(with_size(config, (side, side)))
        except CfgError:
            continue
        return with_size(config, (side, side))
    return config


def representatives(configs: Iterable[Config]) -> list[Config]:
    """The smallest of ``configs`` that between them show every section, activation and key there is to be built."""
    sized = []
    for config in configs:
        try:
            sized.append((plan(config).parameters, config.source, config))
        except CfgError:
            continue
    chosen, shown = [], set()
    for _, _, config in sorted(sized, key=lambda one: one[:2]):
        new = _features(config) - shown
        if new:
            chosen.append(config)
            shown |= new
    return chosen


def _features(config: Config) -> set[str]:
    names = {f"[{section.kind}]" for section in config.layers}
    names |= {f"{section.kind}.{key}" for section in config.layers for key in section.given}
    return names | {getattr(section, "activation", "linear") for section in config.layers}


@torch.inference_mode()
def runs(network: Darknet) -> bool:
    """Whether one forward pass gives heads, or logits, of the planned shape without NaN or infinity."""
    outputs = network.eval()(torch.rand(1, network.config.net.channels, *network.size))
    return as_planned(network, outputs) and all(map(_finite, outputs))


def as_planned(network: Darknet, outputs: Sequence[Tensor]) -> bool:
    """Whether the outputs have the shapes the plan says: those of the heads, or the logits of a classifier."""
    nodes = network.graph.nodes
    planned = [nodes[head.index].outputs for head in network.heads]
    if not planned:
        planned = [(math.prod(nodes[network.graph.output].outputs),)]
    return planned == [tuple(output.shape[1:]) for output in outputs]


def learns(network: Darknet) -> bool:
    """Whether one optimiser step on two images with boxes, or labels, leaves loss and parameters finite.

    Raises:
        UserError: what the training of such a network says.
    """
    net = network.config.net
    network.train()
    optimizer = make_optimizer(network, net)
    set_learning_rate(optimizer, learning_rate(net, 1))
    raws = network(torch.rand(2, net.channels, *network.size))
    if network.heads:
        loss = make_criterion(network)(raws, _two_boxes(network)).total
    else:
        loss = F.cross_entropy(raws[0], torch.tensor([0, network.num_classes - 1]))
    (loss / len(raws[0])).backward()
    optimizer.step()
    return _finite(loss.detach()) and all(_finite(parameter.detach()) for parameter in network.parameters())


def _two_boxes(network: Darknet) -> Targets:
    """One box in each of two images: a half of it, in the middle."""
    height, width = network.size
    box = torch.tensor([width / 4, height / 4, width * 3 / 4, height * 3 / 4])
    labels = torch.tensor([0, network.num_classes - 1])
    return Targets(torch.tensor([0, 1]), labels, box.repeat(2, 1), torch.zeros(2, dtype=torch.bool))


def keeps_weights(network: Darknet, folder: Path) -> bool:
    """Whether a .weights file of random values comes back byte for byte; the network has these values then."""
    source, copy = folder / "random.weights", folder / "copy.weights"
    rng = np.random.default_rng(0)
    with source.open("wb") as file:
        file.write(_HEADER.tobytes())
        for count in _blocks(network.graph.parameters):
            file.write(rng.standard_normal(count, np.float32).astype("<f4", copy=False).tobytes())
    load_darknet_weights(network, source)
    save_darknet_weights(network, copy)
    same = filecmp.cmp(source, copy, shallow=False)
    source.unlink()
    copy.unlink()
    return same


def _blocks(count: int) -> Iterator[int]:
    yield from (min(_BLOCK, count - start) for start in range(0, count, _BLOCK))


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())
