"""Darknet's training keys and YOLOv4's regularisation through train.py: each does its work, and resumes to the bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

import train
from models.darknet import Darknet
from models.layers.batch_norm import CrossMiniBatchNorm2d
from models.layers.pointwise import DropBlockLayer
from tests import trainings
from training import ema, step
from training import run as training_run
from training.log import RunLog, read_metrics
from training.regularisers import adversarial
from utils.checkpoint import load_checkpoint
from utils.errors import CfgError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")

ITERATIONS = 8


def run(painted: Path, out: Path, *more: object, iterations: int = ITERATIONS) -> Path:
    """A training of a few iterations in two parts each, evaluated at its end."""
    length = ("--iterations", iterations, "--batch", 4, "--subdivisions", 2, "--set", "burn_in=1")
    train.main(trainings.flags(painted, out, "--no-scan", "--eval-interval", 0, *length, *more))
    return out


def digest(folder: Path) -> tuple[str, list[float]]:
    """All tensors and numbers of last.pt, and the losses."""
    saved, text = load_checkpoint(folder / "last.pt"), hashlib.sha256()
    for part in ("model", "ema"):
        for name, value in saved[part].items():
            text.update(name.encode() + value.numpy().tobytes())
    text.update(repr(saved["criterion"]).encode())
    return text.hexdigest(), [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


class _Interrupt(Exception):
    """Ends a training as a crash would."""


# several at once, because each run takes seconds
TRICKS = {
    "Adam against an adversary, normalised across mini-batches": (
        *("--set", "adam=1", "--set", "learning_rate=.001", "--sat", 5, "--cbn"),
    ),
    "Darknet's average, blocks dropped, labels rejected": (
        *("--ema", "darknet", "--set", "ema_alpha=.6", "--dropblock", 0.3, "--dropblock-side", 3),
        *("--set", "num_sigmas_reject_badlabels=.5", "--set", "badlabels_rejection_percentage=2"),
    ),
    "dynamic mini-batches, noise and blur": (
        *("--set", "dynamic_minibatch=1", "--set", "yolo.random=1.4", "--set", "resize_step=8"),
        *("--set", "gaussian_noise=20", "--set", "blur=9"),
    ),
}


@pytest.mark.parametrize("flags", TRICKS.values(), ids=TRICKS.keys())
def test_they_change_the_training_and_resume_to_the_bit(
    painted: Path, tmp_path: Path, plain: str, monkeypatch: pytest.MonkeyPatch, flags: tuple[object, ...]
) -> None:
    monkeypatch.setattr(ema, "_LAST_ITERATIONS", 2)  # of Darknet's thousand: the average ends at 6, after the crash
    whole = digest(run(painted, tmp_path / "whole", *flags))
    assert whole[0] != plain

    def interrupt(log: RunLog, iteration: int, *_: object) -> None:
        if iteration == 6:
            raise _Interrupt

    with monkeypatch.context() as crash, pytest.raises(_Interrupt):
        crash.setattr(RunLog, "evaluation", lambda *_: None)
        crash.setattr(RunLog, "step", interrupt)
        run(painted, tmp_path / "broken", *flags, "--save-interval", 5)
    train.main(["--resume", str(tmp_path / "broken")])
    resumed = digest(tmp_path / "broken")
    assert resumed[0] == whole[0] and resumed[1] == whole[1][-len(resumed[1]) :]


@pytest.fixture(scope="module")
def plain(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a run without any trick."""
    return digest(run(painted, tmp_path_factory.mktemp("plain") / "run"))[0]


def trained_network(monkeypatch: pytest.MonkeyPatch) -> list[Darknet]:
    """Where each network lands that a training builds."""
    networks: list[Darknet] = []
    make = training_run.Darknet
    monkeypatch.setattr(training_run, "Darknet", lambda config: networks.append(make(config)) or networks[-1])
    return networks


def test_flags_reach_the_network(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = trained_network(monkeypatch)
    altered = []
    alter = adversarial.alter
    monkeypatch.setattr(adversarial, "alter", lambda *given: altered.append(given[2]) or alter(*given))
    run(painted, tmp_path / "run", "--cbn", "--dropblock", 0.2, "--dropblock-side", 2, "--sat", 3)
    network = networks[0]
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 5 and all(isinstance(norm, CrossMiniBatchNorm2d) for norm in norms)
    assert {norm.subdivisions for norm in norms} == {2}
    (block,) = (module for module in network.modules() if isinstance(module, DropBlockLayer))
    assert (block.section.probability, block.section.dropblock_size_abs, block.progress) == (0.2, 2, 7 / 8)
    assert 0 < len(altered) < 14 and max(altered) <= 3 * 7 / 8  # strength * iteration / max_batches
    assert "batch_normalize=2" in (tmp_path / "run" / "network.cfg").read_text()


def test_keys_of_single_layers(painted: Path, tmp_path: Path) -> None:
    text = (painted / "painted.cfg").read_text().split("[convolutional]")
    keys = ["", "dont_update=99\n", "clip=.02\n", "train_only_bn=1\n", "", "", ""]
    parts = [part.replace("\n", "\n" + key, 1) for part, key in zip(text, keys, strict=True)]
    cfg = tmp_path / "keys.cfg"
    cfg.write_text("[convolutional]".join(parts))
    first = run(painted, tmp_path / "first", "--cfg", cfg, "--ema", "off", iterations=2)
    second = run(painted, tmp_path / "second", "--cfg", cfg, "--ema", "off", iterations=4)
    before, after = (load_checkpoint(folder / "last.pt")["model"] for folder in (first, second))
    same = {name for name in before if torch.equal(before[name], after[name])}
    learned = {name for name in before if name.endswith(("weight", "bias"))}
    assert same & learned == {f"layers.0.{name}" for name in ("conv.weight", "bn.weight", "bn.bias")} | {
        "layers.2.conv.weight"
    }
    assert after["layers.1.conv.weight"].abs().max() <= 0.02


def test_a_gradient_that_is_not_finite_can_be_lived_with(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, dropped = step.drop_not_finite, []

    def with_nan(parameters: list[torch.nn.Parameter]) -> None:
        parameters[0].grad[0] = torch.nan
        drop(parameters)
        dropped.append(parameters[0].grad[0].abs().sum().item())

    monkeypatch.setattr(step, "drop_not_finite", with_nan)
    run(painted, tmp_path / "run", "--set", "try_fix_nan=1", iterations=3)
    assert dropped == [0, 0, 0]


def test_keys_without_effect_are_said(painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(painted, tmp_path / "run", "--set", "angle=5", "--set", "ema_alpha=.9", iterations=1)
    printed = capsys.readouterr().out
    assert "warning: " in printed and "angle=5 has no effect: for classifiers only" in printed
    assert "ema_alpha=0.9 has no effect with --ema modern; --ema darknet averages as Darknet does" in printed


def test_impossible_wishes(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(CfgError, match="adversarial_lr=-1"):
        run(painted, tmp_path / "a", "--sat", -1)
    with pytest.raises(UsageError, match="--ema darknet: the cfg has ema_alpha=0"):
        run(painted, tmp_path / "b", "--ema", "darknet")
