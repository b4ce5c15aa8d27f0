"""The recipes from end to end: four painted images are overfitted, and a stopped run goes on as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import train
from tests import trainings
from tests.painted import write_painted
from training.log import read_metrics
from training.run import Run
from utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_painted(tmp_path_factory.mktemp("four") / "data", images=4)


def run(data: Path, out: Path, flags: str) -> None:
    train.main(trainings.flags(data, out, "--no-scan", *flags.split()))


# twice the rate ends with one seed in six in a network that has broken
PLAIN = "--mosaic 0 --scale 0 --translate 0 --set flip=0 --set learning_rate=.01"


@pytest.mark.parametrize("loss", ["scaled", "simota"])
def test_four_images_are_overfitted(four: Path, tmp_path: Path, loss: str) -> None:
    run(four, tmp_path / "run", f"--recipe scaled --loss {loss} --iterations 300 --eval-interval 0 {PLAIN}")
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["iteration"] == 300
    assert last["ap50"] > 0.9


def test_a_stopped_run_goes_on_with_its_recipe(four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "--recipe scaled --mixup .3 --copy-paste .5 --shear 5 --iterations 8 --eval-interval 4"
    run(four, tmp_path / "whole", flags)
    with monkeypatch.context() as patch:  # stopped after the evaluation at 4
        patch.setattr(Run, "out_of_patience", lambda run: run.state.iteration == 4)
        run(four, tmp_path / "parts", flags)
    train.main(["--resume", str(tmp_path / "parts")])
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert whole["iteration"] == parts["iteration"] == 8
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
