"""The training of classifiers, end to end by way of train.py: 20 painted images, seconds for a training."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from models.darknet import Darknet
from models.losses.classification import ClassificationLoss
from models.weights import load_darknet_weights, save_darknet_weights
from tests import trainings
from training.log import read_metrics
from training.pretrained import load_pretrained
from utils import cli
from utils.cfg import load_cfg, parse_cfg
from utils.checkpoint import load_checkpoint
from utils.errors import Diverged, InputError, UsageError
from utils.image import write_image
from utils.keyed_random import keyed_rng

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")

flags = partial(trainings.flags, cfg="tiny.cfg")

ITERATIONS = 12  # of the runs that are stopped and resumed

NET = """[net]
width=16
height=16
channels=3
batch=8
subdivisions=2
learning_rate=0.1
momentum=0.9
decay=0.0005
burn_in=2
max_batches=40
policy=poly
power=1
min_crop=16
max_crop=20
angle=5
saturation=1.1
cutmix=1
mosaic=1
label_smooth_eps=0.1
"""
STEM = """[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish
"""
LAST = "[convolutional]\nfilters=7\nsize=1\nactivation=linear\n"
CLASSIFIER = f"{NET}{STEM}[dropout]\nprobability=.1\n[avgpool]\n{LAST}[softmax]\n"
DETECTOR = f"{NET}{STEM}[convolutional]\nfilters=6\nsize=1\nactivation=linear\n[yolo]\nclasses=1\n"


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes that differ in colour, with the cfg."""
    root, rng = tmp_path_factory.mktemp("painted"), keyed_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 7), ("val", 3)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 60, (18, 22, 3), np.uint8)
                image[..., 2 - label] += 150
                write_image(root / split / name / f"{number}.png", image)
    (root / "tiny.cfg").write_text(CLASSIFIER)
    return root


@pytest.fixture(scope="module")
def trained(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was let finish: its folder and what it printed."""
    out, printed = tmp_path_factory.mktemp("runs") / "run", io.StringIO()
    with contextlib.redirect_stdout(printed):
        train.main(flags(painted, out, "--iterations", 40, "--eval-interval", 20))
    return out, printed.getvalue()


# --- one training that is let finish ------------------------------------------------------------------------------


def test_it_learns(trained: tuple[Path, str]) -> None:
    out, printed = trained
    rows = read_metrics(out / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 40 and losses[0] > 0.9 > np.mean(losses[-5:])
    evaluations = [row for row in rows if "top1" in row]
    assert [row["iteration"] for row in evaluations] == [20, 40]
    assert evaluations[-1]["top1"] == 1 and evaluations[-1]["top5"] == 1
    assert "iteration  minutes  top-1  top-5" in printed


def test_the_run_folder(trained: tuple[Path, str], painted: Path) -> None:
    out, printed = trained
    wanted = {"args.json", "best.json", "best.pt", "best.weights", "last.pt", "last.weights", "metrics.jsonl"}
    assert {path.name for path in out.iterdir()} >= {*wanted, "network.cfg", "results.png"}
    assert printed.count(f"tiny.cfg: last layer adapted to the 3 classes of {painted}/train\n") == 1
    config = load_cfg(out / "network.cfg")
    assert config.layers[4].filters == 3
    assert load_checkpoint(out / "best.pt")["names"] == ["blue", "green", "red"]
    assert json.loads((out / "best.json").read_text())["per_class"]["red"] == {"accuracy": 1.0, "images": 3}
    network = Darknet(config)
    assert load_darknet_weights(network, out / "last.weights") == 40 * 8


# --- stopping and going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_to_the_bit(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    more = ("--iterations", ITERATIONS, "--eval-interval", 4, "--no-scan")
    train.main(flags(painted, tmp_path / "whole", *more))
    real = train.step

    def step_and_signal(state, *rest) -> None:
        real(state, *rest)
        if state.iteration == 6:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(train, "step", step_and_signal)
    with pytest.raises(SystemExit) as ended:
        train.main(flags(painted, tmp_path / "parts", *more))
    assert ended.value.code == 128 + number
    monkeypatch.setattr(train, "step", real)
    train.main(["--resume", str(tmp_path / "parts")])
    for name in ("last.weights", "best.weights"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")


def rows_of(folder: Path) -> list[dict[str, float]]:
    """What a run recorded, but for the time it took."""
    return [{**row, "seconds": None} for row in read_metrics(folder / "metrics.jsonl")]


def test_other_images_are_refused_on_resume(painted: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        for name in ("blue", "red"):
            (data / split / name).symlink_to(painted / split / name)
    out = tmp_path / "run"
    train.main([*flags(painted, out, "--iterations", 2, "--no-scan"), "--data", str(data)])
    (data / "train/red").unlink()
    (data / "train/red").symlink_to(painted / "train/green")
    (data / "train/red2").symlink_to(painted / "train/red")
    with pytest.raises(InputError, match=r"last\.pt: trained on 14 images .*, --data now gives 21 images"):
        train.main(["--resume", str(out)])


def test_a_loss_that_is_not_finite(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClassificationLoss, "forward", lambda self, logits, truth: logits.sum() * torch.nan)
    with pytest.raises(Diverged, match=r"iteration 1: the loss is nan on .*\.png.*; lower learning_rate"):
        train.main(flags(painted, tmp_path / "run", "--no-scan"))


# --- the plan -----------------------------------------------------------------------------------------------------


def test_the_rate_follows_the_batch(painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(flags(painted, tmp_path / "a", "--iterations", 1, "--no-scan", "--batch", 4))
    assert "learning rate 0.05: 0.1 is meant for batches of 8, these are of 4" in capsys.readouterr().out
    rate = ("--set", "learning_rate=0.02")
    train.main(flags(painted, tmp_path / "b", "--iterations", 1, "--no-scan", "--batch", 4, *rate))
    assert load_cfg(tmp_path / "b/network.cfg").net.learning_rate == 0.02


# --- the backbone goes into a detector ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["backbone.conv.2", "best.pt"])
def test_the_backbone_starts_a_detector(trained: tuple[Path, str], tmp_path: Path, kind: str) -> None:
    donor = Darknet(load_cfg(trained[0] / "network.cfg"))
    load_darknet_weights(donor, trained[0] / "best.weights")
    path = trained[0] / kind
    if kind != "best.pt":
        path = tmp_path / kind
        save_darknet_weights(donor, path, stop_before=2)
    config = parse_cfg(DETECTOR)
    detector = Darknet(config)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    line = load_pretrained(detector, path, config)
    assert "loaded" in line
    for index in (0, 1):
        ours, theirs = detector.layers[index].state_dict(), donor.layers[index].state_dict()
        stored = ours.keys() - {"bn.num_batches_tracked"}  # a .weights file does not count them
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in stored)
        assert not torch.equal(ours["conv.weight"], before[f"layers.{index}.conv.weight"])
    assert torch.equal(detector.layers[2].conv.weight, before["layers.2.conv.weight"])


def test_weights_of_another_class_count_start_a_classifier(
    trained: tuple[Path, str], painted: Path, tmp_path: Path
) -> None:
    """As darknet53.weights of 1000 classes do: all layers but the last."""
    donor = Darknet(parse_cfg(CLASSIFIER))
    save_darknet_weights(donor, tmp_path / "seven.weights")
    start = ("--weights", tmp_path / "seven.weights", "--freeze", 2)
    train.main(flags(painted, tmp_path / "run", "--iterations", 1, "--no-scan", *start))
    network = Darknet(load_cfg(tmp_path / "run/network.cfg"))
    load_darknet_weights(network, tmp_path / "run/last.weights")
    assert torch.equal(network.layers[1].conv.weight, donor.layers[1].conv.weight)
    assert network.layers[4].conv.weight.shape[0] == 3


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (("--loss", "scaled"), r"--loss scaled: a classifier learns by cross-entropy"),
        (("--close-jitter", ".2", "--recipe", "balanced"), r"--close-jitter: about boxes"),
        (("--letterbox", "--copy-paste", "0.5"), r"--letterbox, --copy-paste: about boxes, of which a classifier"),
    ],
)
def test_flags_about_boxes_are_refused(painted: Path, tmp_path: Path, more: tuple[str, ...], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        train.main(flags(painted, tmp_path / "run", *more))


def test_a_recipe_for_boxes_may_be_given(painted: Path, tmp_path: Path) -> None:
    train.main(flags(painted, tmp_path / "run", "--recipe", "balanced", "--iterations", 2))
    assert (tmp_path / "run/last.pt").exists()


def test_a_classifier_has_no_sample_to_learn_from(painted: Path) -> None:
    with pytest.raises(UsageError, match=r"--data is needed: a folder with train/CLASS/ and val/CLASS/"):
        train.main(["--cfg", str(painted / "tiny.cfg"), "--device", "cpu"])


def test_one_line_on_the_command_line(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(
            train.main, ["--cfg", str(painted / "tiny.cfg"), "--data", str(painted / "tiny.cfg"), "--device", "cpu"]
        )
    assert ended.value.code == 3
    assert capsys.readouterr().err.count("\n") == 1


# --- real pictures ------------------------------------------------------------------------------------------------


def test_real_pictures(shared_data: Path, tmp_path: Path) -> None:
    """The first five training and two test pictures of each of CIFAR's classes."""
    with tarfile.open(shared_data / "cifar10_mini.tar") as archive:
        members = [member for member in archive if member.isfile()]
        wanted = [member for member in members if int(Path(member.name).stem) < (5 if "train" in member.name else 2)]
        archive.extractall(tmp_path / "cifar", wanted, filter="data")
    machine = ("--device", "cpu", "--workers", "0", "--precision", "fp32")
    length = ("--iterations", "2", "--batch", "10")
    train.main(["--cfg", "cifar", "--data", str(tmp_path / "cifar"), "--out", str(tmp_path / "run"), *machine, *length])
    assert len(load_checkpoint(tmp_path / "run/last.pt")["names"]) == 10
    assert [row["iteration"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "top1" in row] == [1, 2]
