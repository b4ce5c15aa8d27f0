"""training.checks.weights: what of a file fits, and which cfg a file that does not was made for."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import CFG
from training.checks.weights import Match, load_matching, match_findings, mismatch_finding
from utils.cfg import format_cfg, load_cfg, parse_cfg, with_classes
from utils.checkpoint import save_checkpoint
from utils.errors import WeightsError

TWO = parse_cfg(CFG, source="two.cfg")
FIVE = with_classes(TWO, 5)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """All weights of a network for two classes."""
    save_darknet_weights(Darknet(TWO), tmp_path / "two.weights")
    return tmp_path / "two.weights"


def test_everything_fits(weights: Path) -> None:
    match = load_matching(Darknet(TWO), weights, TWO)
    assert (match.layers, match.all_layers, match.floats) == (6, 6, match.all_floats)
    assert match.line(weights) == f"{weights}: 6 of 6 layers with weights and 100% of {match.all_floats:,} floats fit"
    assert not list(match_findings(match, weights, "two.cfg"))


def test_another_head_starts_new(weights: Path) -> None:
    network = Darknet(FIVE)
    head = sum(value.numel() for value in network.layers[6].parameters())
    fresh = network.layers[6].conv.weight.clone()
    match = load_matching(network, weights, TWO)
    assert (match.layers, match.all_layers, match.floats) == (5, 6, match.all_floats - head)
    assert network.layers[6].conv.weight.equal(fresh)
    assert match.line(weights).endswith("; the rest starts new")
    assert not list(match_findings(match, weights, "two.cfg"))


def test_a_backbone_is_enough(tmp_path: Path) -> None:
    network = Darknet(load_cfg("yolov4-tiny"))
    save_darknet_weights(network, tmp_path / "tiny.conv.25", stop_before=25)
    match = load_matching(Darknet(network.config), tmp_path / "tiny.conv.25", network.config)
    assert match.backbone == 1 and match.layers < match.all_layers
    assert not list(match_findings(match, tmp_path / "tiny.conv.25", "yolov4-tiny.cfg"))


def test_little_fits_of_another_network_s_checkpoint(tmp_path: Path) -> None:
    wider = parse_cfg(CFG.replace("filters=24", "filters=32"), source="wider.cfg")
    path = tmp_path / "best.pt"
    save_checkpoint(path, {"model": Darknet(wider).state_dict(), "cfg": format_cfg(wider), "names": ["a", "b"]})
    (found,) = match_findings(load_matching(Darknet(TWO), path, TWO), path, "two.cfg")
    assert found.what == f"{path}: only 2 of 6 layers fit two.cfg" and not found.serious
    assert found.fix == "a .pt carries its cfg: take the network.cfg of its run folder as --cfg"


def test_little_of_a_darknet_file(weights: Path) -> None:
    (found,) = match_findings(Match(1, 6, 100, 1000, backbone=0.2), weights, "two.cfg")
    assert found.fix == "give the cfg these weights were trained with, or a backbone file of this cfg"


def test_the_cfg_that_a_file_was_made_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.weights"
    save_darknet_weights(Darknet(load_cfg("yolov4-tiny")), path)
    with pytest.raises(WeightsError) as raised:
        load_matching(Darknet(TWO), path, TWO)
    found = mismatch_finding(raised.value, path)
    assert found.serious and found.what == str(raised.value)
    assert found.fix == "6,062,814 floats are what yolov4-tiny.cfg or yolov4-tiny-mish.cfg takes: --cfg yolov4-tiny.cfg"


def test_files_that_are_none(tmp_path: Path, weights: Path) -> None:
    gone = mismatch_finding(FileNotFoundError(errno.ENOENT, "No such file or directory"), tmp_path / "none.weights")
    assert gone.serious and gone.what.endswith("none.weights: No such file or directory")
    assert gone.fix == "check the path of --weights"
    text = tmp_path / "text.weights"
    text.write_bytes(b"<html>not found</html>" * 9)
    with pytest.raises(WeightsError) as raised:
        load_matching(Darknet(TWO), text, TWO)
    assert mismatch_finding(raised.value, text).fix == "download or copy the file again"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(WeightsError) as raised:
        load_matching(Darknet(TWO), weights, TWO)
    assert mismatch_finding(raised.value, weights).fix.endswith("or leave --weights out to start from nothing")
