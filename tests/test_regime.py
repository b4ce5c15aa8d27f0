"""training.schedule.regime: what depth and number of images decide where nobody else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.cfg import fit_schedule, read_cfg
from training.flags import parse_train_flags
from training.schedule.regime import Regime, choose_regime, depth, is_deep, regime_of
from utils.cfg import load_cfg

ROOT = Path(__file__).resolve().parents[1]
DEEP = Regime("adamw", 10.0, 200, by_depth=True)


def regime(cfg: str, *flags: str, images: int = 205, fine_tuning: bool = False) -> Regime:
    args = parse_train_flags(["--cfg", cfg, *flags])
    return choose_regime(args, read_cfg(args), images, fine_tuning=fine_tuning)[0]


@pytest.mark.parametrize("name", ["yolov4", "yolov4-mish", "yolov4-leaky", "csdarknet53", "resnet50"])
def test_deep_networks_on_few_images(name: str) -> None:
    assert is_deep(load_cfg(name))
    assert regime(name) == regime(name, "--recipe", "balanced") == DEEP


@pytest.mark.parametrize("name", ["yolov4-tiny", "yolov4-tiny-mish", "cifar"])
def test_shallow_networks_step_as_the_cfg_says(name: str) -> None:
    assert not is_deep(load_cfg(name))
    assert regime(name) == regime(name, "--recipe", "darknet") == Regime()


def test_depth_is_counted_by_hand() -> None:
    text = (ROOT / "cfg" / "yolov4-mish.cfg").read_text()
    assert depth(load_cfg("yolov4-mish")) == text.count("batch_normalize=1")


def test_many_images_and_trained_detectors_keep_the_optimiser() -> None:
    kept = Regime("cfg", None, 200)
    assert regime("yolov4", images=10_000) == kept
    assert regime("yolov4", fine_tuning=True) == kept


def test_flags_and_darknets_letter_win() -> None:
    assert regime("yolov4", "--recipe", "darknet") == Regime()
    assert regime("yolov4", "--optimizer", "nesterov") == Regime("nesterov", None, 200)
    assert regime("yolov4", "--clip-gradient", "3", "--precise-bn", "64") == Regime("adamw", 3.0, 64, by_depth=True)
    assert regime("yolov4", "--clip-gradient", "0", "--precise-bn", "0") == Regime("adamw", None, 0, by_depth=True)
    assert regime("yolov4-tiny", "--precise-bn", "64", "--clip-gradient", "2") == Regime("cfg", 2.0, 64)
    assert regime("yolov4", "--recipe", "scaled") == Regime("nesterov", None, 200)


def test_what_is_chosen_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse_train_flags(["--cfg", "yolov4-mish"])
    config, chosen = fit_schedule(args, read_cfg(args), 205)
    assert (config.net.learning_rate, chosen) == (0.001, DEEP)
    said = capsys.readouterr().out
    assert "learning rate 0.001 for AdamW (cfg: 0.0013)" in said
    assert "110 convolutions" not in said and f"{depth(config)} convolutions deep: AdamW, gradients up to" in said
    fit_schedule(parse_train_flags(["--cfg", "yolov4-tiny"]), load_cfg("yolov4-tiny"), 205)
    assert "deep" not in capsys.readouterr().out


def test_a_resumed_run_goes_on_as_it_stepped() -> None:
    args = parse_train_flags(["--cfg", "yolov4"])
    assert regime_of({"regime": vars(DEEP)}, args) == DEEP
    args = parse_train_flags(["--cfg", "yolov4", "--recipe", "darknet", "--clip-gradient", "5"])
    assert regime_of({}, args) == Regime("cfg", 5.0, 0)  # a checkpoint from before it was kept
