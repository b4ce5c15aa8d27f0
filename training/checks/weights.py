"""Whether a pretrained file belongs to a cfg: what of it fits, and which cfg it was made for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import torch

from models.backbone import backbone_size
from models.darknet import Darknet
from models.graph import Graph, plan
from models.weights_file import num_floats
from training.checks.findings import Finding
from training.pretrained import load_pretrained
from utils.cfg import CFG_FOLDER, Config, load_cfg
from utils.errors import InputError

_LITTLE = 0.5  # of the layers of the backbone


@dataclass(frozen=True)
class Match:
    """What a pretrained file brought.

    Attributes:
        layers, floats: that came from the file.
        all_layers, all_floats: that the network has.
        backbone: the part of the layers before the neck that came from the file.
    """

    layers: int
    all_layers: int
    floats: int
    all_floats: int
    backbone: float

    def line(self, path: Path) -> str:
        """For people."""
        return (
            f"{path}: {self.layers} of {self.all_layers} layers with weights and "
            f"{self.floats / self.all_floats:.0%} of {self.all_floats:,} floats fit"
            + ("" if self.layers == self.all_layers else "; the rest starts new")
        )


def load_matching(network: Darknet, path: Path, original: Config) -> Match:
    """Load what fits of ``path``, as `training.pretrained.load_pretrained` does, and count it.

    Raises:
        WeightsError: nothing fits, or the file is damaged; the network is of no use then.
    """
    own = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    before = {name: value.clone() for name, value in own.items()}
    with torch.no_grad():
        for value in own.values():
            value.fill_(math.nan)  # what the file does not bring stays so
        load_pretrained(network, path, original)
        missing = {name for name, value in own.items() if value.isnan().all()}
        for name in missing:
            own[name].copy_(before[name])
    layers = _layers(own.keys())
    came = layers - _layers(missing)
    body = {f"layers.{index}" for index in range(backbone_size(network.graph))} & layers
    return Match(
        layers=len(came),
        all_layers=len(layers),
        floats=sum(value.numel() for name, value in before.items() if name not in missing),
        all_floats=sum(value.numel() for value in before.values()),
        backbone=len(body & came) / max(1, len(body)),
    )


def match_findings(match: Match, path: Path, source: str) -> Iterator[Finding]:
    """Too little that fits."""
    if match.backbone < _LITTLE:
        yield Finding(
            "warning",
            f"{path}: only {match.layers} of {match.all_layers} layers fit {source}",
            _made_for(path) or "give the cfg these weights were trained with, or a backbone file of this cfg",
        )


def mismatch_finding(error: InputError | OSError, path: Path) -> Finding:
    """A file that does not load, and which of the cfgs here it was made for."""
    return Finding(
        "serious",
        f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error),
        _made_for(path) or "give the cfg these weights were trained with, or leave --weights out to start from nothing",
    )


def _made_for(path: Path) -> str:
    """The advice to take the cfg of the folder cfg/ whose layers end where a .weights file does, "" for none."""
    if not path.is_file():
        return "check the path of --weights"
    if path.suffix == ".pt":
        return "a .pt carries its cfg: take the network.cfg of its run folder as --cfg"
    try:
        floats = num_floats(path)
    except InputError:
        return "download or copy the file again"
    shortest_first = sorted(CFG_FOLDER.glob("*.cfg"), key=lambda cfg: (len(cfg.name), cfg.name))
    fitting = [cfg.name for cfg in shortest_first if _ends_at_layer(plan(load_cfg(cfg)), floats)]
    return f"{floats:,} floats are what {' or '.join(fitting)} takes: --cfg {fitting[0]}" if fitting else ""


def _ends_at_layer(graph: Graph, floats: int) -> bool:
    """Whether so many values are those of the network, or of its first layers."""
    total = 0
    for node in graph.nodes:
        total += node.parameters
        if total >= floats:
            break
    return total == floats


def _layers(names: Set[str]) -> set[str]:
    """``layers.7`` of ``layers.7.conv.weight``."""
    return {".".join(name.split(".")[:2]) for name in names}
