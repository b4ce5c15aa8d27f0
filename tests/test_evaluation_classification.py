"""evaluation.classification, and eval.py with a classifier: a network whose guesses are known beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eval as eval_script
from data.formats.class_folders import load_labelled
from evaluation.classification import Measurement, measure, table
from evaluation.speed import Speed
from evaluation.topk import ClassAccuracy, TopK
from models.darknet import Darknet
from models.weights import save_darknet_weights
from utils.cfg import parse_cfg
from utils.checkpoint import save_checkpoint
from utils.distributed import World
from utils.errors import InputError, UsageError
from utils.image import write_image

NAMES = ("blue", "green", "red")
CFG = """[net]
width=8
height=8
channels=3
[convolutional]
filters=3
size=1
activation=linear
[avgpool]
[softmax]
"""
MACHINE = ("--device", "cpu", "--workers", "0")


def colour_guesser() -> Darknet:
    """A classifier whose logits are how blue, green and red an image is."""
    network = Darknet(parse_cfg(CFG)).eval()
    with torch.no_grad():
        network.layers[0].conv.weight.copy_(torch.eye(3).flip(0)[..., None, None])
        network.layers[0].conv.bias.zero_()
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images a class to validate by, two to train on, and the network both ways; one "green" image is red."""
    folder = tmp_path_factory.mktemp("classes")
    for split, count in (("train", 2), ("val", 3)):
        for label, name in enumerate(NAMES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                colour = [60, 60, 60]
                colour[0 if (split, name, number) == ("val", "green", 2) else 2 - label] = 200
                write_image(folder / split / name / f"{number}.png", np.full((18, 22, 3), colour, np.uint8))
    network = colour_guesser()
    save_darknet_weights(network, folder / "colours.weights")
    save_checkpoint(folder / "colours.pt", {"model": network.state_dict(), "cfg": CFG, "names": list(NAMES)})
    (folder / "colours.cfg").write_text(CFG)
    return folder


def by_cfg(folder: Path) -> tuple[str, ...]:
    return "--cfg", str(folder / "colours.cfg"), "--weights", str(folder / "colours.weights")


# --- measuring ----------------------------------------------------------------------------------------------------


def test_what_is_right_is_counted(folder: Path) -> None:
    found = measure(colour_guesser(), load_labelled(folder, "val"), batch=4, workers=0, progress=False)
    per_class = {"blue": ClassAccuracy(1.0, 3), "green": ClassAccuracy(2 / 3, 3), "red": ClassAccuracy(1.0, 3)}
    assert found.top == TopK(8 / 9, 1.0, 9, per_class)
    assert found.speed.images_per_second > 0


class InTurn(World):
    """A process of several that run one after the other; what it gathers are those before it and itself."""

    values: list[Any]  # of all of them

    def gather(self, value: Any) -> list[Any]:
        self.values.append(value)
        return list(self.values)


@pytest.mark.parametrize(("batch", "ranks"), [(2, 2), (4, 2), (9, 2), (2, 3)])
def test_shares_together_count_what_one_process_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch: int, ranks: int
) -> None:
    dataset, options = load_labelled(folder, "val"), {"batch": batch, "workers": 0, "progress": False}
    monkeypatch.setattr(InTurn, "values", [], raising=False)
    shared = [measure(colour_guesser(), dataset, world=InTurn(rank, ranks), **options) for rank in range(ranks)]
    assert [int(counts[0].sum()) for counts, _ in InTurn.values] == {
        (2, 2): [5, 4],
        (4, 2): [5, 4],
        (9, 2): [9, 0],
        (2, 3): [4, 3, 2],
    }[batch, ranks]
    assert shared[-1].top == measure(colour_guesser(), dataset, **options).top


def test_the_lines_for_people() -> None:
    per_class = {"cat": ClassAccuracy(0.5, 2), "sea cow": ClassAccuracy(-1, 0)}
    assert table(Measurement(TopK(0.5, 1.0, 2, per_class), Speed(1.0, 2.0, 0.5, 285.7))) == [
        "class    images  top-1",
        "cat           2  0.500",
        "sea cow       0      -",
        "",
        "top-1 0.500  top-5 1.000  of 2 images",
        "",
        "per image: loading 1.0 ms, network 2.0 ms; 285.7 images/s",
    ]


# --- eval.py ------------------------------------------------------------------------------------------------------


def test_the_script_prints_and_writes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ("--weights", str(folder / "colours.pt"), "--data", str(folder), "--json", str(tmp_path / "new/a.json"))
    eval_script.main([*files, *MACHINE])
    printed = capsys.readouterr().out
    assert "green       3  0.667" in printed and "top-1 0.889  top-5 1.000  of 9 images" in printed
    assert "images/s" in printed
    result = json.loads((tmp_path / "new/a.json").read_text())
    assert list(result) == ["top1", "top5", "images", "per_class", "images_per_second"]
    assert result["top1"] == 8 / 9 and result["top5"] == 1 and result["images"] == 9 and result["images_per_second"] > 0
    eval_script.main([*by_cfg(folder), "--data", str(folder), *MACHINE, "--split", "train", "--batch", "4"])
    assert "top-1 1.000  top-5 1.000  of 6 images" in capsys.readouterr().out


def test_classes_are_matched_by_name(folder: Path, tmp_path: Path) -> None:
    """The network's order is that of its checkpoint, whatever folders the validation images have."""
    (tmp_path / "val").mkdir()
    (tmp_path / "val/red").symlink_to(folder / "val/red")
    report = tmp_path / "a.json"
    files = ("--weights", str(folder / "colours.pt"), "--data", str(tmp_path), "--json", str(report))
    eval_script.main([*files, *MACHINE])
    result = json.loads(report.read_text())
    assert result["top1"] == 1 and result["per_class"]["blue"] == {"accuracy": -1, "images": 0}


def test_names_of_a_file_come_first(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my.names").write_text("red\ngreen\nblue\n")
    files = ("--weights", str(folder / "colours.pt"), "--data", str(folder), "--names", str(tmp_path / "my.names"))
    eval_script.main([*files, *MACHINE])
    assert "top-1 0.222" in capsys.readouterr().out  # two of the green ones are called by their name


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("--plots", "x"), r"^--plots: about boxes, of which a classifier knows nothing; drop what is given$"),
        (("--letterbox", "--save-results", "new/r.json", "--save-voc", "v"), "^--letterbox, --save-results, --save-v"),
    ],
)
def test_flags_about_boxes_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=match):
        eval_script.main(["--weights", str(folder / "colours.pt"), "--data", str(folder), *MACHINE, *flags])


def test_another_number_of_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/cow").symlink_to(folder / "val/red")
    with pytest.raises(InputError, match=r"1 names \(wanted 3"):
        eval_script.main([*by_cfg(folder), "--data", str(tmp_path), *MACHINE])
