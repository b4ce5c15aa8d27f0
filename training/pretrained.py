"""Start a network from weights that were trained for another job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from models.backbone import BACKBONE, backbone_size
from models.darknet import Darknet
from models.graph import plan
from models.heads.region import RegionHead
from models.weights import load_darknet_weights
from models.weights_file import backbone_layers, num_floats
from utils.cfg import Config, parse_cfg
from utils.checkpoint import load_checkpoint
from utils.errors import CfgError, UsageError, WeightsError


def load_pretrained(network: Darknet, path: Path, original: Config) -> str:
    """Copy into ``network`` what fits of a ``.pt``, ``.weights`` or backbone file; return a line that says what did.

    Args:
        network: the network to train, changed in place.
        path: the weights.
        original: the cfg before its heads were adapted to the data set: what a whole ``.weights`` file was made for.

    Raises:
        WeightsError: the file fits neither the network nor the original nor ends at a layer of it.
    """
    if path.suffix == ".pt":
        state = load_checkpoint(path)
        return _copy_matching(network, state.get("ema") or state["model"], path)
    layers = backbone_layers(network.graph, path)
    if layers is None:
        donor = Darknet(original)
        load_darknet_weights(donor, path)
        return _copy_matching(network, donor.state_dict(), path)
    load_darknet_weights(network, path, stop_before=layers)
    whole = layers == len(network.layers)
    return f"{path}: loaded " + ("every layer" if whole else f"the first {layers} of {len(network.layers)} layers")


def is_trained_detector(path: Path, *configs: Config) -> bool:
    """Whether ``path`` holds all of one of the networks ``configs`` but for, perhaps, its heads.

    Args:
        path: as for `load_pretrained`.
    """
    if path.suffix != ".pt":
        return num_floats(path) in {plan(config).parameters for config in configs if _body(config)}
    try:
        body = _body(parse_cfg(load_checkpoint(path)["cfg"]))
    except CfgError:
        return False
    return bool(body) and body in [_body(config) for config in configs]


def _body(config: Config) -> list[int]:
    """The parameters of each layer but for the convolutions before the heads; of a network without heads nothing."""
    graph = plan(config)
    before_heads = {index - 1 for index in graph.heads}
    return [node.parameters for node in graph.nodes if node.index not in before_heads] if graph.heads else []


@torch.no_grad()
def expect_background(network: Darknet, prior: float = 0.01) -> None:
    """Let every anchor of new heads start with objectness ``prior``, in place (arXiv 1708.02002, section 4.1).

    Darknet starts at one half everywhere: the first steps then only push thousands of cells down, which on short
    warm-ups ends in NaN. Values that pretrained weights bring are loaded after this.
    """
    for head in network.heads:
        if isinstance(head, RegionHead):  # its objectness is learned as a square error, not against a logit
            continue
        before: Any = network.layers[head.index - 1]
        bias = before.conv.bias
        bias.view(head.num_anchors, -1)[:, head.box_entries] = math.log(prior / (1 - prior))


def freeze(network: Darknet, layers: int | str) -> None:
    """Keep the first ``layers`` layers as they are, in place: no gradient, batch norm in evaluation mode.

    Args:
        layers: how many, or `BACKBONE`.

    Raises:
        UsageError: the network has no more layers than that.
    """
    if layers == BACKBONE:
        layers = backbone_size(network.graph)
        print(f"frozen: the first {layers} of {len(network.layers)} layers, the backbone")
    assert isinstance(layers, int)
    if layers >= len(network.layers):
        raise UsageError(
            f"--freeze {layers}: {network.config.source} has {len(network.layers)} layers; leave some to train"
        )
    network.freeze(layers)


@torch.no_grad()
def _copy_matching(network: Darknet, state: dict[str, torch.Tensor], path: Path) -> str:
    """Copy tensors whose name and shape agree; heads of another class count stay new."""
    own = network.state_dict()
    fitting = [name for name, value in own.items() if name in state and state[name].shape == value.shape]
    if not any(own[name].dim() == 4 for name in fitting):
        raise WeightsError(f"{path}: no layer of it fits {network.config.source}; is this the right pair?")
    for name in fitting:
        own[name].copy_(state[name])
    fresh = sorted({name.rsplit(".", 2)[0] for name in own if name not in fitting})
    left = f"; {', '.join(fresh)} start new (another shape)" if fresh else ""
    return f"{path}: loaded {len(fitting)} of {len(own)} tensors{left}"
