"""detect.py with a classifier: what it says of a picture, with a network whose scores are known beforehand."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import detect
from inference import classification
from models import load_network
from models.darknet import Darknet
from utils.cfg import parse_cfg
from utils.checkpoint import save_checkpoint
from utils.errors import InputError, UsageError
from utils.image import write_image

CFG = """[net]
width=8
height=8
channels=3
[convolutional]
filters={classes}
size=1
activation=linear
[avgpool]
[softmax]
temperature=.5
"""
GREEN = (51, 153, 102)  # as shares of 255: .2, .6, .4; over the temperature the logits are .4, 1.2, .8


def write_network(path: Path, classes: int) -> Path:
    """A checkpoint whose first three logits are how red, green and blue a picture is; the others are -1, -2 ..."""
    cfg = CFG.format(classes=classes)
    network = Darknet(parse_cfg(cfg))
    with torch.no_grad():
        network.layers[0].conv.weight.copy_(torch.eye(classes, 3)[..., None, None])
        network.layers[0].conv.bias.copy_(torch.arange(2.0, 2.0 - classes, -1).clamp(max=0))
    names = ["red", "green", "blue", *(f"other {number}" for number in range(classes - 3))]
    save_checkpoint(path, {"model": network.state_dict(), "cfg": cfg, "names": names})
    return path


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """The command line for a folder with one green picture, without --json."""
    weights = write_network(tmp_path / "three.pt", 3)
    (tmp_path / "pictures").mkdir()
    write_image(tmp_path / "pictures" / "b.png", np.full((12, 9, 3), GREEN, np.uint8))
    return ["--weights", str(weights), "--source", str(tmp_path / "pictures"), "--device", "cpu", "--precision", "fp32"]


def test_a_picture_is_named_by_its_likeliest_classes(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detect.main([*flags, "--json", str(tmp_path / "new" / "a.json")])
    picture = str(tmp_path / "pictures" / "b.png")
    # e^.4, e^1.2, e^.8 and their sum: 1.4918, 3.3201, 2.2255; 7.0375
    assert capsys.readouterr().out == f"{picture}: green 0.472, blue 0.316, red 0.212\n"
    report = json.loads((tmp_path / "new" / "a.json").read_text())
    assert report["names"] == ["red", "green", "blue"] and report["cfg"] == flags[1]
    (frame,) = report["frames"]
    assert frame["source"] == picture and frame["frame"] == 0
    assert [(one["label"], one["name"]) for one in frame["classes"]] == [(1, "green"), (2, "blue"), (0, "red")]
    total = sum(math.exp(logit) for logit in (0.4, 1.2, 0.8))
    wanted = [math.exp(logit) / total for logit in (1.2, 0.8, 0.4)]
    assert [one["score"] for one in frame["classes"]] == pytest.approx(wanted, abs=2e-6)


def test_five_of_many_classes_are_named(tmp_path: Path) -> None:
    network = load_network(parse_cfg(CFG.format(classes=7)), write_network(tmp_path / "a.pt", 7))
    names = [f"class {number}" for number in range(7)]
    with torch.inference_mode():
        found = classification.likeliest(network, np.full((8, 8, 3), GREEN, np.uint8), names, torch.device("cpu"))
    assert [one["label"] for one in found] == [1, 2, 0, 3, 4]


def test_names_of_a_file_come_first(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.names").write_text("rot\ngrün\nblau\n", encoding="utf-8")
    detect.main([*flags, "--names", str(tmp_path / "my.names")])
    assert ": grün 0.472, blau 0.316, rot 0.212" in capsys.readouterr().out


def test_a_bad_picture_does_not_stop_the_rest(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "c.png"):
        (tmp_path / "pictures" / name).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png: not an image.*\(and 1 more\)"):
        detect.main(flags)
    assert "b.png: green " in capsys.readouterr().out


def test_a_signal_ends_it_after_the_picture(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "pictures" / "c.png", np.full((12, 9, 3), GREEN, np.uint8))
    real = classification.likeliest

    def signal_and_look(*args: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(classification, "likeliest", signal_and_look)
    with pytest.raises(SystemExit) as ended:
        detect.main([*flags, "--json", str(tmp_path / "a.json")])
    assert ended.value.code == 143
    assert len(json.loads((tmp_path / "a.json").read_text())["frames"]) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_flags_about_boxes_are_refused(flags: list[str]) -> None:
    about = "about boxes, of which a classifier knows nothing; drop what is given"
    with pytest.raises(UsageError, match=f"^--letterbox, --save-txt, --classes: {about}$"):
        detect.main([*flags, "--classes", "red", "--save-txt", "--letterbox"])
    detect.main([*flags, "--stretch", "--no-save", "--max-detections", "3"])  # true of a classifier, or nothing to it
