"""Trained .weights files cut anywhere near the border of a layer: refused in one line that is right, nothing loaded."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from models.darknet import Darknet
from models.weights import load_darknet_weights, save_darknet_weights
from models.weights_file import backbone_layers
from utils.cfg import load_cfg, parse_cfg
from utils.errors import WeightsError

_HEADER = 20
_TEXT = """[net]
width=16
height=16
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=mish
[maxpool]
size=2
stride=2
[convolutional]
filters=8
size=1
activation=linear
[shortcut]
from=-2
weights_type=per_channel
[connected]
output=4
batch_normalize=1
activation=linear
"""


def borders(network: Darknet) -> list[tuple[int, int]]:
    """(layer, byte of a file at which its values begin) for each layer that has any, and (-1, length of the file)."""
    found, position = [], _HEADER
    for node in network.graph.nodes:
        if node.parameters:
            found.append((node.index, position))
        position += 4 * node.parameters
    return [*found, (-1, position)]


def check_every_cut(network: Darknet, whole: Path, cut: Path) -> int:
    """Shorten a copy of ``whole`` from border to border; the number of refusals, each of them checked."""
    shutil.copyfile(whole, cut)
    state = list(network.state_dict().values())
    untouched = [tensor._version for tensor in state]
    places = borders(network)
    assert places[-1][1] == whole.stat().st_size
    refusals = 0
    for layer, border in reversed(places):
        for length in (border + 1, border, border - 1):
            if length == places[-1][1]:
                continue
            os.truncate(cut, length)
            with pytest.raises(WeightsError) as caught:
                load_darknet_weights(network, cut)
            message = str(caught.value)
            assert re.fullmatch(expected(network, cut, length, layer), message), message
            assert [tensor._version for tensor in state] == untouched, f"{length} bytes: some were loaded"
            refusals += 1
        if layer >= 0:
            os.truncate(cut, border)
            first = next((node.index for node in network.graph.nodes if node.parameters), 0)
            assert backbone_layers(network.graph, cut) == (None if layer == first == 0 else layer)
    return refusals


def expected(network: Darknet, path: Path, length: int, layer: int) -> str:
    """What is to be said about a file of ``length`` bytes, one that ends where ``layer`` begins or a byte beside it."""
    place = re.escape(str(path))
    if length < _HEADER:
        return rf"{place}: {length} bytes are no header \(wanted a Darknet \.weights file\)"
    if (length - _HEADER) % 4:
        return rf"{place}: {length:,} bytes are no whole number of float32 values; the file is cut or damaged"
    counts = (
        f"{(length - _HEADER) // 4:,} floats, {re.escape(network.config.source)} needs {network.graph.parameters:,}"
    )
    kind = network.config.layers[layer].kind
    return rf"{place} holds {counts}; it ends in layer {layer} {kind} \w+; is this the right pair\?"


def trained(shared_data: Path) -> list[Path]:
    found = sorted((shared_data / "weights").rglob("*.weights"))
    assert found
    return found


def test_trained_files_cut_at_every_layer(shared_data: Path, tmp_path: Path) -> None:
    for weights in trained(shared_data):
        network = Darknet(load_cfg(weights.with_suffix(".cfg")))
        before = [tensor.clone() for tensor in network.state_dict().values()]
        layers = len(borders(network)) - 1
        assert check_every_cut(network, weights, tmp_path / "cut.weights") == 3 * layers + 2
        assert all(torch.equal(one, two) for one, two in zip(before, network.state_dict().values(), strict=True))


def test_a_file_of_every_kind_of_layer_cut_at_every_layer(tmp_path: Path) -> None:
    network = Darknet(parse_cfg(_TEXT, source="a.cfg"))
    save_darknet_weights(network, tmp_path / "whole.weights")
    assert check_every_cut(network, tmp_path / "whole.weights", tmp_path / "cut.weights") == 3 * 4 + 2


def test_trained_files_do_not_fit_each_other(shared_data: Path) -> None:
    files = trained(shared_data)
    networks = [Darknet(load_cfg(weights.with_suffix(".cfg"))) for weights in files]
    for network, own in zip(networks, files, strict=True):
        for weights in (weights for weights in files if weights != own):
            with pytest.raises(
                WeightsError, match=r"holds [\d,]+ floats, .*\.cfg needs [\d,]+(; it ends in layer|; is)"
            ):
                load_darknet_weights(network, weights)
