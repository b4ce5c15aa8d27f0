"""Whether a pretrained file belongs to a cfg: what of it fits, and which cfg it was made for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from models.darknet import Darknet
from models.graph import Graph, plan
from models.transfer import load_pretrained
from models.weights import num_floats
from utils.cfg import CFG_FOLDER, Config, load_cfg
from utils.errors import InputError
from utils.findings import Finding

_LITTLE = 0.5  # of the values of the layers before the heads


@dataclass(frozen=True)
class Match:
    """What a pretrained file brought.

    Attributes:
        layers, floats: that came from the file.
        all_layers, all_floats: that the network has.
    """

    layers: int
    all_layers: int
    floats: int
    all_floats: int

    def line(self, path: Path) -> str:
        """For people."""
        return (
            f"{path}: {self.layers} of {self.all_layers} layers with weights and "
            f"{self.floats / self.all_floats:.0%} of {self.all_floats:,} floats fit"
            + ("" if self.layers == self.all_layers else "; the rest starts new")
        )


def load_matching(network: Darknet, path: Path, original: Config) -> Match:
    """Load what fits of ``path``, as `models.transfer.load_pretrained` does, and count it.

    Raises:
        WeightsError: nothing fits, or the file is damaged.
    """
    before = {name: value.clone() for name, value in network.state_dict().items() if value.is_floating_point()}
    load_pretrained(network, path, original)
    after = network.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    return Match(
        layers=len(_layers(changed)),
        all_layers=len(_layers(before)),
        floats=sum(before[name].numel() for name in changed),
        all_floats=sum(value.numel() for value in before.values()),
    )


def match_findings(match: Match, path: Path, source: str) -> Iterator[Finding]:
    """Too little that fits."""
    if match.floats < _LITTLE * match.all_floats:
        yield Finding(
            "warning",
            f"{path}: only {match.layers} of {match.all_layers} layers fit {source}",
            _made_for(path) or "give the cfg these weights were trained with, or a backbone file of this cfg",
        )


def mismatch_finding(error: InputError | OSError, path: Path) -> Finding:
    """A file that does not load, and which of the cfgs here it was made for."""
    if isinstance(error, OSError):
        return Finding("serious", f"{path}: {error.strerror}", "check the path of --weights")
    return Finding(
        "serious",
        str(error),
        _made_for(path) or "give the cfg these weights were trained with, or leave --weights out to start from nothing",
    )


def _made_for(path: Path) -> str:
    """The advice to take the cfg of the folder cfg/ whose layers end where a .weights file does, "" for none."""
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


def _layers(names: set[str] | dict[str, torch.Tensor]) -> set[str]:
    """``layers.7`` of ``layers.7.conv.weight``."""
    return {".".join(name.split(".")[:2]) for name in names}
