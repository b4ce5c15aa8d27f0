"""Recipes: tables of flags and keys that exist, and what is given by hand wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.cfg import fit_schedule, read_cfg
from training.flags import parse_train_flags, save_args
from training.recipes import RECIPES
from training.schedule.regime import Regime, regime_of
from utils.cfg import load_cfg, parse_cfg, with_yolo
from utils.cfg.heads import Yolo
from utils.errors import CfgError, UsageError

BASE = ["--cfg", "yolov4-tiny-mish.cfg"]


def parsed(*flags: str) -> dict:
    return vars(parse_train_flags([*BASE, *flags]))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_decides_the_same_flags_and_its_keys_exist(name: str) -> None:
    assert RECIPES[name].flags.keys() == RECIPES["darknet"].flags.keys()
    args = parse_train_flags([*BASE, "--recipe", name])
    assert {flag: getattr(args, flag) for flag in RECIPES[name].flags} == RECIPES[name].flags
    assert args.set == RECIPES[name].keys
    read_cfg(args)  # an unknown key, or a value of the wrong kind, is an error


def test_the_default_is_darknets_but_for_what_depth_decides() -> None:
    default, darknet = parsed(), parsed("--recipe", "darknet")
    differing = {flag for flag in darknet if darknet[flag] != default[flag]}
    assert differing == {"recipe", "optimizer", "clip_gradient", "precise_bn"}
    assert (darknet["optimizer"], darknet["clip_gradient"], darknet["precise_bn"]) == ("cfg", 0.0, 0)
    assert {default[flag] for flag in differing - {"recipe"}} == {None}
    for args in (parse_train_flags(BASE), parse_train_flags([*BASE, "--recipe", "darknet"])):
        assert read_cfg(args) == load_cfg("yolov4-tiny-mish.cfg")


def test_the_balanced_recipe_is_darknets_with_other_weights_of_the_loss() -> None:
    balanced, darknet = parsed("--recipe", "balanced"), parsed()
    assert {flag for flag in darknet if darknet[flag] != balanced[flag]} == {
        "recipe",
        "set",
        "class_weights",
        "close_jitter",
    }
    heads = [
        layer for layer in read_cfg(parse_train_flags([*BASE, "--recipe", "balanced"])).layers if type(layer) is Yolo
    ]
    assert [(head.iou_normalizer, head.max_delta, head.iou_thresh) for head in heads] == [(0.15, 3.5, 0.35)] * 2
    assert parsed("--recipe", "balanced", "--class-weights", "none")["class_weights"] == "none"


def test_flags_given_by_hand_win() -> None:
    flags = "--recipe scaled --loss simota --optimizer adamw --mosaic 0 --scale 0 --mixup .5 --set momentum=.8"
    args = parsed(*flags.split(), "--set", "yolo.jitter=.2")
    assert (args["loss"], args["optimizer"], args["mosaic"], args["scale"], args["mixup"]) == (
        "simota",
        "adamw",
        0.0,
        0.0,
        0.5,
    )
    assert (args["translate"], args["nominal_batch"], args["set"]["decay"]) == (0.1, 64, "0.0005")
    assert (args["set"]["momentum"], args["set"]["yolo.jitter"]) == (".8", ".2")
    assert parsed("--copy-paste", ".3", "--shear", "5", "--translate", ".2")["shear"] == 5.0


def test_the_order_of_flags_does_not_matter() -> None:
    assert parsed("--loss", "darknet", "--recipe", "scaled") == parsed("--recipe", "scaled", "--loss", "darknet")


def test_a_rate_given_by_hand_is_not_scaled() -> None:
    assert parsed("--recipe", "scaled", "--set", "learning_rate=.002")["nominal_batch"] == 0
    assert parsed("--recipe", "scaled", "--set", "learning_rate=.002", "--nominal-batch", "32")["nominal_batch"] == 32


def test_the_cfg_of_the_scaled_recipe() -> None:
    args = parse_train_flags([*BASE, "--recipe", "scaled", "--iterations", "400"])
    config = fit_schedule(args, read_cfg(args), 205)[0]
    net, heads = config.net, [layer for layer in config.layers if isinstance(layer, Yolo)]
    assert (net.batch, net.max_batches, net.policy, net.sgdr_cycle) == (8, 400, "sgdr", 400)
    # .01 for 64 images is .00125 for 8
    assert (net.learning_rate, net.learning_rate_min) == (pytest.approx(0.00125), pytest.approx(0.0000125))
    assert (net.momentum, net.decay, net.power, net.burn_in) == (0.937, 0.0005, 1.0, 80)
    assert len(heads) == 2
    for head in heads:
        assert (head.scale_x_y, head.jitter, head.resize) == (2.0, 0.0, 1.0)


def test_keys_of_the_heads() -> None:
    config = read_cfg(parse_train_flags([*BASE, "--set", "yolo.ignore_thresh=.6"]))
    assert [layer.ignore_thresh for layer in config.layers if isinstance(layer, Yolo)] == [0.6, 0.6]
    with pytest.raises(CfgError, match="has no key 'ignore_tresh'; did you mean 'ignore_thresh'"):
        read_cfg(parse_train_flags([*BASE, "--set", "yolo.ignore_tresh=.6"]))


def test_only_yolo_heads_have_them() -> None:
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=45\n[Gaussian_yolo]\nnum=3\nclasses=6\n"
    config = parse_cfg(text)
    assert with_yolo(config, jitter=".01") == config


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--recipe best", "invalid choice: 'best'"),
        ("--loss mse", "invalid choice: 'mse'"),
        ("--optimizer sgd", "invalid choice"),
        ("--shear 61", "'61' is not an angle from 0 to 60 degrees"),
        ("--shear right", "'right' is not an angle from 0 to 60 degrees"),
        ("--scale 1.5", "'1.5' is not a number from 0 to 1"),
    ],
)
def test_wrong_flags(flags: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(*flags.split())


def test_the_flags_of_a_run_hold_what_was_in_force_and_a_resumed_run_has_them(tmp_path: Path) -> None:
    args = parse_train_flags([*BASE, "--recipe", "scaled", "--mixup", ".1", "--set", "decay=.001"])
    save_args(args, tmp_path / "args.json")
    saved = json.loads((tmp_path / "args.json").read_text())
    assert (saved["recipe"], saved["loss"], saved["mosaic"], saved["mixup"]) == ("scaled", "scaled", 1.0, 0.1)
    assert (saved["set"]["decay"], saved["set"]["yolo.scale_x_y"]) == (".001", "2")
    resumed = vars(parse_train_flags(["--resume", str(tmp_path)]))
    assert {flag: resumed[flag] for flag in saved if flag not in ("out", "resume")} == {
        flag: value for flag, value in vars(args).items() if flag not in ("out", "resume")
    }
    with pytest.raises(UsageError, match="--recipe cannot change"):
        parse_train_flags(["--resume", str(tmp_path), "--recipe", "darknet"])


def test_a_run_from_before_there_were_recipes(tmp_path: Path) -> None:
    save_args(parse_train_flags([*BASE, "--mosaic", ".5"]), tmp_path / "args.json")
    saved = json.loads((tmp_path / "args.json").read_text())
    for flag in ("recipe", "optimizer", "scale", "copy_paste", "nominal_batch"):
        del saved[flag]
    (tmp_path / "args.json").write_text(json.dumps(saved))
    args = parse_train_flags(["--resume", str(tmp_path)])
    assert (args.recipe, args.loss, args.scale, args.nominal_batch) == ("auto", "darknet", 0, 0)
    assert regime_of({}, args) == Regime()
    assert args.mosaic == 0.5
