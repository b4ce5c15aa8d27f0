"""train.py from end to end, from weights that were trained before: rates, other classes, frozen layers, more epochs."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

import train
from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import CFG, write_painted
from tests.trainings import flags, short
from training import detection
from training.log import read_metrics
from training.pretrained import load_pretrained
from utils.cfg import load_cfg
from utils.checkpoint import load_checkpoint
from utils.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with red and blue boxes; other.cfg is for five classes."""
    folder = write_painted(tmp_path_factory.mktemp("painted") / "data")
    (folder / "other.cfg").write_text(CFG.replace("classes=2", "classes=5").replace("filters=14", "filters=20"))
    return folder


@pytest.fixture(scope="module")
def trained(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a detector that finds them."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        train.main(flags(painted, out, "--iterations", 200, "--mosaic", 0, "--eval-interval", 0))
    assert read_metrics(out / "metrics.jsonl")[-1]["ap50"] > 0.8
    return out


@pytest.mark.parametrize("file", ["best.weights", "best.pt"])
def test_a_trained_detector_gets_a_low_rate_in_one_line(
    painted: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    train.main(short(painted, tmp_path / "run", "--weights", trained / file))
    assert "  fine-tuning a trained detector: learning rate 0.001 instead of 0.01\n" in capsys.readouterr().out
    net = load_cfg(tmp_path / "run" / "network.cfg").net
    assert (net.learning_rate, net.learning_rate_min) == (0.001, 0.00001)


def test_a_rate_of_ones_own_and_a_backbone_keep_theirs(
    painted: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(short(painted, tmp_path / "own", "--weights", trained / "best.pt", "--set", "learning_rate=.005"))
    assert load_cfg(tmp_path / "own" / "network.cfg").net.learning_rate == 0.005
    network = Darknet(load_cfg(painted / "painted.cfg"))
    load_pretrained(network, trained / "best.pt", network.config)
    save_darknet_weights(network, tmp_path / "painted.conv.3", stop_before=3)
    train.main(short(painted, tmp_path / "backbone", "--weights", tmp_path / "painted.conv.3"))
    assert load_cfg(tmp_path / "backbone" / "network.cfg").net.learning_rate == 0.01
    assert "fine-tuning" not in capsys.readouterr().out


def test_a_recipes_rate_is_nobodys_own(painted: Path, trained: Path, tmp_path: Path) -> None:
    start = ("--weights", trained / "best.pt", "--recipe", "scaled", "--batch", 32)
    train.main(short(painted, tmp_path / "run", *start))
    # .01 for 64 images is .005 for 32
    assert load_cfg(tmp_path / "run" / "network.cfg").net.learning_rate == 0.001


def test_weights_for_other_classes_are_a_start(
    painted: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = Darknet(load_cfg(painted / "painted.cfg"))
    load_pretrained(two, trained / "best.pt", two.config)
    five = Darknet(load_cfg(painted / "other.cfg"))
    state = five.state_dict()
    for name, value in two.state_dict().items():
        if value.shape == state[name].shape:
            state[name].copy_(value)
    save_darknet_weights(five, tmp_path / "other.weights")
    more = ("--weights", tmp_path / "other.weights", "--freeze", "backbone", "--warm-up", 0)
    train.main(short(painted, tmp_path / "run", *more, cfg="other.cfg"))
    printed = capsys.readouterr().out
    assert "other.cfg: heads adapted to the 2 classes" in printed
    assert "layers.6 start new (another shape)" in printed
    assert "fine-tuning a trained detector" in printed
    assert "frozen: the first 6 of 8 layers, the backbone" in printed
    before, after = two.state_dict(), load_checkpoint(tmp_path / "run" / "last.pt")["model"]
    kept = {name for name in after if not name.endswith("num_batches_tracked")}  # which .weights do not hold
    same = {name for name in kept if torch.equal(after[name], before[name])}
    assert same == {name for name in kept if not name.startswith("layers.6")}


def test_heads_learn_anew_on_a_frozen_backbone(painted: Path, trained: Path, tmp_path: Path) -> None:
    more = ("--weights", trained / "best.pt", "--freeze", "backbone", "--iterations", 40, "--mosaic", 0)
    train.main(flags(painted, tmp_path / "run", *more, "--eval-interval", 0))
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["ap50"] > 0.8  # nothing was forgotten


@pytest.mark.parametrize("loss", ["darknet", "scaled", "simota"])
def test_class_weights_stand_in_the_cfg_as_trained(
    painted: Path, tmp_path: Path, loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(short(painted, tmp_path / "run", "--class-weights", "1,4", "--loss", loss))
    assert load_cfg(tmp_path / "run" / "network.cfg").layers[-1].counters_per_class == (1_000_000, 250_000)
    assert "class weights: red 1, blue 4" in capsys.readouterr().out
    train.main(["--resume", str(tmp_path / "run"), "--iterations", "3"])
    assert load_cfg(tmp_path / "run" / "network.cfg").layers[-1].counters_per_class == (1_000_000, 250_000)


def test_class_weights_by_the_data_and_none(painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [one["category_id"] for one in json.loads((painted / "instances_train.json").read_text())["annotations"]]
    ratio = (labels.count(1) / labels.count(2)) ** 0.5
    train.main(short(painted, tmp_path / "auto", "--class-weights", "auto"))
    red, blue = load_cfg(tmp_path / "auto" / "network.cfg").layers[-1].counters_per_class
    assert red / blue == pytest.approx(ratio, rel=1e-4)
    train.main(short(painted, tmp_path / "none", "--class-weights", "none", "--cfg", tmp_path / "auto" / "network.cfg"))
    assert load_cfg(tmp_path / "none" / "network.cfg").layers[-1].counters_per_class is None
    with pytest.raises(UsageError, match="--class-weights 1,2,3: 3 numbers"):
        train.main(short(painted, tmp_path / "wrong", "--class-weights", "1,2,3"))
    capsys.readouterr()


def test_the_best_by_ap_is_kept(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([(0.6, 0.3), (0.9, 0.2), (0.7, 0.4), (0.8, 0.3)])
    real = detection.evaluate_network

    def pretended(*args: object, **options: object) -> object:
        evaluation = real(*args, **options)
        evaluation.metrics.__dict__.update(dict(zip(("ap50", "ap"), next(scores), strict=True)))
        return evaluation

    monkeypatch.setattr(detection, "evaluate_network", pretended)
    more = ("--iterations", 4, "--eval-interval", 1)
    train.main(flags(painted, tmp_path / "ap", *more, "--best-by", "ap"))
    assert load_checkpoint(tmp_path / "ap" / "best.pt")["iteration"] == 3
    scores = iter([(0.6, 0.3), (0.9, 0.2), (0.7, 0.4), (0.8, 0.3)])
    train.main(flags(painted, tmp_path / "ap50", *more))
    assert load_checkpoint(tmp_path / "ap50" / "best.pt")["iteration"] == 2


def test_a_run_that_stopped_early_goes_on_to_its_next_evaluation(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--eval-interval", 2, "--patience", 2, "--set", "learning_rate=0", "--iterations", 30, "--save-interval", 1)
    train.main(flags(painted, tmp_path / "run", *more))
    stopped = load_checkpoint(tmp_path / "run" / "last.pt")["iteration"]
    assert stopped < 12 and "stopping early" in capsys.readouterr().out
    other = Path(shutil.copytree(tmp_path / "run", tmp_path / "more"))
    train.main(["--resume", str(tmp_path / "run")])  # as patient as before: one more evaluation
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] == stopped + 2
    train.main(["--resume", str(other), "--patience", "4", "--epochs", "40"])
    assert load_checkpoint(other / "last.pt")["iteration"] == stopped + 4
    assert load_cfg(other / "network.cfg").net.max_batches == 60  # 40 epochs of 12 images in batches of 8
