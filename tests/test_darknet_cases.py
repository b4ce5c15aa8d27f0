"""Every file of the folder with Darknet's numbers is used; the copy kept here is whole and of our networks."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden_cases import (
    FOLDER,
    OWN,
    detect_cases,
    faults,
    forward_cases,
    load_recipe,
    training_cases,
    write_weights,
)
from utils.cfg import load_cfg, with_size


def test_nothing_in_the_folder_is_left_out() -> None:
    assert list(faults(FOLDER)) == []


def test_the_copy_kept_here_is_whole() -> None:
    assert list(faults(OWN)) == []
    assert len(forward_cases(OWN)) == 2 and len(training_cases(OWN)) == 7 and detect_cases(OWN) == []
    assert sum(path.stat().st_size for path in OWN.rglob("*")) < 3e6


@pytest.mark.parametrize("name", forward_cases(OWN))
def test_the_copy_is_of_the_networks_in_cfg(name: str) -> None:
    measured = load_cfg(OWN / "forward" / f"{name}.cfg")
    shipped = with_size(load_cfg(name.rpartition("_")[0]), (measured.net.height, measured.net.width))
    assert measured.layers == shipped.layers


@pytest.mark.parametrize("name", forward_cases(OWN))
def test_our_recipe_makes_darknets_weights_and_image(name: str, tmp_path: Path) -> None:
    cfg = OWN / "forward" / f"{name}.cfg"
    facts, arrays = json.loads(cfg.with_suffix(".json").read_text()), np.load(cfg.with_suffix(".npz"))
    calib = arrays["calib"].astype(np.float32) if "calib" in arrays else None
    write_weights(OWN, cfg, tmp_path / "a.weights", facts["weights_seed"], calib)
    assert hashlib.sha256((tmp_path / "a.weights").read_bytes()).hexdigest() == facts["weights_sha256"]
    image = load_recipe(OWN).make_input(facts["input_seed"], 1, 3, facts["height"], facts["width"])
    assert np.array_equal(image, arrays["input"])


def test_the_recipe_names_a_layer_it_cannot_fill(tmp_path: Path) -> None:
    cfg = tmp_path / "a.cfg"
    cfg.write_text("[net]\nwidth=4\nheight=4\nchannels=1\n[connected]\noutput=2\n")
    with pytest.raises(ValueError, match=r"layer 0 \[connected\] has parameters \(wanted convolutions only\)"):
        load_recipe(OWN).write_weights(cfg, tmp_path / "a.weights", 1)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("forward/net.cfg", "forward/net.json: missing"),
        ("forward/net.h5", "forward/net.h5: not part of any case"),
        ("training/mse.cudnnbn.npz", "training/mse.cfg: missing"),
        ("training/mse.cfg", "training/mse.npz: missing"),
        ("training/mse.cpubn.npz", "mse.cpubn: not VARIANT.cudnnbn or .stock"),
        ("detect/net_tiled.json", "net_tiled: not NETWORK_stretch or _letterbox"),
        ("detect/net_stretch.txt", "detect/net_stretch.json: missing"),
        ("classify/net.json", "classify/net.json: not part of any case"),
    ],
)
def test_a_case_of_another_form_is_a_fault(name: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    np.savez(path) if path.suffix == ".npz" else path.touch()
    assert fault in list(faults(tmp_path))


def test_an_array_that_nothing_compares_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    shutil.copyfile(OWN / "training" / "mse_v3.cfg", tmp_path / "training" / "mse.cfg")
    np.savez(tmp_path / "training" / "mse.stock.npz", truth=np.zeros(1), s0_l3_momentum=np.zeros(1))
    assert list(faults(tmp_path)) == ["mse.stock.npz: unknown key s0_l3_momentum"]
