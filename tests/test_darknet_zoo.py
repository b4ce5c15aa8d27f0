"""Darknet's own cfgs, all that lie in the folder DARKNET_ZOO names: planned, run, trained for a step, saved."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.darknet_cfgs import as_planned, keeps_weights, learns, representatives, runs, smallest
from models.darknet import Darknet
from models.graph import plan
from utils.cfg import Config, load_cfg, parse_cfg
from utils.cfg.layers import Unsupported
from utils.errors import CfgError

_DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "zoo"
_ZOO = Path(os.environ.get("DARKNET_ZOO", _DEFAULT))
_NAMES = sorted(str(path.relative_to(_ZOO)) for path in _ZOO.rglob("*.cfg")) or [
    pytest.param(None, marks=pytest.mark.skip(reason=f"DARKNET_ZOO: folder {_ZOO.name} is absent or has no cfgs"))
]
_FAST = 12_000_000  # parameters up to which the default suite runs a network; the others are left to `make soak`


def refused(config: Config) -> Unsupported | None:
    """The first section of a kind this project does not build."""
    return next((section for section in config.layers if isinstance(section, Unsupported)), None)


def faults_of(config: Config, folder: Path) -> list[str]:
    """What a network cannot do that it should."""
    torch.manual_seed(0)
    network = Darknet(smallest(config))
    results = {"run": runs(network), "learn": learns_or_lacks_a_file(network)}
    results["keep its weights"] = keeps_weights(network, folder)
    return [f"{config.source} does not {name}" for name, done in results.items() if not done]


def learns_or_lacks_a_file(network: Darknet) -> bool:
    """YOLO9000's cfg names files of its classes, which a folder of cfgs does not have; the line that does is named."""
    try:
        return learns(network)
    except CfgError as refusal:
        return re.search(r"\.cfg:\d+: \[region\] (map|tree)=\S+: no such file", str(refusal)) is not None


@pytest.mark.parametrize("name", _NAMES)
def test_every_cfg_is_planned_or_refused_by_the_line(name: str, darknet_zoo: Path) -> None:
    config = load_cfg(darknet_zoo / name)
    section = refused(config)
    if section is not None:
        with pytest.raises(CfgError, match=rf"\.cfg:{section.line}: \[{section.kind}\] .*not supported") as caught:
            Darknet(config)
        assert str(caught.value).isprintable()
        return
    with torch.device("meta"):
        network = Darknet(smallest(config)).eval()
        outputs = network(torch.zeros(1, config.net.channels, *network.size))
    assert stored(network) == network.graph.parameters == plan(config).parameters
    assert as_planned(network, outputs)


def stored(network: nn.Module) -> int:
    """How many values the layers put into a .weights file."""
    layers = (layer for layer in network.layers if hasattr(layer, "darknet_parameters"))
    return sum(tensor.numel() for layer in layers for _, tensor in layer.darknet_parameters())


def test_the_smallest_cfgs_of_every_kind_run_learn_and_keep_their_weights(darknet_zoo: Path, tmp_path: Path) -> None:
    chosen = representatives(load_cfg(path) for path in sorted(darknet_zoo.rglob("*.cfg")))
    fast = [config for config in chosen if plan(config).parameters <= _FAST]
    assert fast
    assert [fault for config in fast for fault in faults_of(config, tmp_path)] == []


@pytest.mark.soak
@pytest.mark.parametrize("name", _NAMES)
def test_every_cfg_runs_learns_and_keeps_its_weights(name: str, darknet_zoo: Path, tmp_path: Path) -> None:
    config = load_cfg(darknet_zoo / name)
    if refused(config) is None:
        assert faults_of(config, tmp_path) == []


def test_representatives_are_the_smallest_with_something_new() -> None:
    net, conv = "[net]\nwidth=8\nheight=8\nchannels=3\n", "[convolutional]\nfilters={}\nactivation={}\n"
    texts = {
        "large": net + conv.format(8, "mish"),
        "small": net + conv.format(4, "mish"),
        "leaky": net + conv.format(9, "leaky"),
        "keys": net + conv.format(10, "leaky") + "size=1\n",
        "rnn": net + "[rnn]\n",
    }
    chosen = representatives(parse_cfg(text, source=name) for name, text in texts.items())
    assert [config.source for config in chosen] == ["small", "leaky", "keys"]
