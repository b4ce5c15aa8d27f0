"""train.py as several processes: the weights of one, one writer, and an end for all when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from models.compiling import compile_layers
from tests import trainings
from tests.painted import write_classes, write_painted
from tests.ranks import PATIENCE, ROOT, Ranks, scripts
from training import run as training_run
from training.log import RunLog, read_metrics
from utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")

LONG = 100_000  # iterations: a run that is over only when it is ended


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The painted images; without dropout, which draws other numbers in each process."""
    folder = write_painted(tmp_path_factory.mktemp("painted") / "data")
    cfg = folder / "painted.cfg"
    cfg.write_text(cfg.read_text().replace("[dropout]\nprobability=.02\n", ""))
    return folder


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as processes:
        yield processes


def flags(painted: Path, out: Path, *more: object) -> list[str]:
    return trainings.flags(painted, out, "--no-scan", "--mosaic", 0.5, *more)


def trained(argv: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[str]]:
    """Weights and average of this process after a run, and the files it opened for writing in the run folder."""
    states: list[Any] = []
    written: list[str] = []
    make = training_run.TrainingState
    training_run.TrainingState = lambda **parts: states.append(make(**parts)) or states[-1]
    sys.addaudithook(lambda event, details: written.append(str(details[0])) if _writes(event, details) else None)
    train.main(argv)
    state = states[-1]
    return state.network.state_dict(), state.ema.module_state(), written


def _writes(event: str, details: tuple[Any, ...]) -> bool:
    return event == "open" and isinstance(details[1], str) and any(letter in details[1] for letter in "wa+")


def test_two_processes_train_as_one(painted: Path, ranks: Ranks, tmp_path: Path) -> None:
    """Four steps of eight images in two mini-batches, two evaluations; batch norm sees all images of a mini-batch."""
    more = ("--iterations", 4, "--eval-interval", 2, "--subdivisions", 2, "--sync-bn")
    train.main(flags(painted, tmp_path / "one", *more))
    first, second = answers = ranks(trained, flags(painted, tmp_path / "two", *more))
    assert [type(answer) for answer in answers] == [tuple, tuple], answers
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    for name, tensor in one["model"].items():
        assert torch.equal(first[0][name], second[0][name]) and torch.equal(first[1][name], second[1][name])
        assert torch.equal(first[0][name], two["model"][name])
        # four steps of float32 sums in another order
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-3, atol=1e-4)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for alone, together in zip(*rows, strict=True):
        assert alone.keys() == together.keys() and alone["iteration"] == together["iteration"]
        if "loss" in alone:  # not the box term: Darknet prints the mean over the boxes of a mini-batch
            assert together["objectness"] == pytest.approx(alone["objectness"], rel=1e-3)
    one, two = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert {name for name in one ^ two if "tfevents" not in name} <= {"results.png"}  # not drawn in this process
    assert [path for path in first[2] if str(tmp_path / "two") in path]
    assert not [path for path in second[2] if str(tmp_path / "two") in path]  # one writer


CLASSIFIER = """[net]
width=16
height=16
channels=3
batch=8
subdivisions=2
learning_rate=0.1
burn_in=2
max_batches=40
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[avgpool]
[convolutional]
filters=3
size=1
activation=linear
[softmax]
"""


def test_two_processes_train_a_classifier_as_one(ranks: Ranks, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "data")
    (data / "tiny.cfg").write_text(CLASSIFIER)
    more = ("--no-scan", "--iterations", 4, "--eval-interval", 2, "--batch", 8, "--subdivisions", 2, "--sync-bn")
    train.main(trainings.flags(data, tmp_path / "one", *more, cfg="tiny.cfg"))
    first, second = answers = ranks(trained, trainings.flags(data, tmp_path / "two", *more, cfg="tiny.cfg"))
    assert [type(answer) for answer in answers] == [tuple, tuple], answers
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two"))
    for name, tensor in one["model"].items():
        assert torch.equal(first[0][name], second[0][name])
        torch.testing.assert_close(two["model"][name], tensor, rtol=1e-3, atol=1e-4)
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for alone, together in zip(*rows, strict=True):
        assert alone.keys() == together.keys()
        if "top1" in alone:
            assert (together["top1"], together["top5"]) == (alone["top1"], alone["top5"])


def test_a_batch_must_divide_among_the_processes(painted: Path, ranks: Ranks, tmp_path: Path) -> None:
    wanted = "UsageError: batch=8 in subdivisions=8 does not divide among 2 processes; give --batch 16,"
    for answer in ranks(trained, flags(painted, tmp_path / "run", "--batch", 8, "--subdivisions", 8)):
        assert answer.startswith(wanted)


def compiled(argv: Sequence[str]) -> dict[str, torch.Tensor]:
    """Weights after a run through torch.compile; its stock backend would call a C++ compiler for a minute."""
    training_run.compile_layers = partial(compile_layers, backend="aot_eager")
    return dict(trained([*argv, "--compile"])[0])


def test_compiled_layers_exchange_gradients_too(painted: Path, ranks: Ranks, tmp_path: Path) -> None:
    more = ("--iterations", 2, "--eval-interval", 0, "--batch", "auto")
    train.main(flags(painted, tmp_path / "one", *more, "--set", "batch=8"))
    first, second = answers = ranks(compiled, flags(painted, tmp_path / "two", *more, "--set", "batch=8", "--sync-bn"))
    assert [type(answer) for answer in answers] == [dict, dict], answers
    for name, tensor in load_checkpoint(tmp_path / "one" / "last.pt")["model"].items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)


def stopped_and_resumed(argv: Sequence[str], out: str) -> None:
    """A run of which one process gets a signal in its third step, and its continuation."""
    record = RunLog.step

    def step(log: RunLog, iteration: int, *rest: Any) -> None:
        record(log, iteration, *rest)
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    RunLog.step = step
    try:
        train.main(argv)
    except SystemExit as ended:
        assert ended.code == 143
        # as torchrun counts: otherwise a process could find in the store where the other listened the first time
        os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"
        train.main(["--resume", out])
    finally:
        RunLog.step = record


def test_resuming_two_processes_is_exact(ranks: Ranks, tmp_path: Path) -> None:
    """With dropout, whose numbers differ between the processes."""
    data = write_painted(tmp_path / "data")
    unbroken, broken = (flags(data, tmp_path / name, "--iterations", 6) for name in ("unbroken", "broken"))
    assert [type(answer) for answer in ranks(trained, unbroken)] == [tuple, tuple]
    assert ranks(stopped_and_resumed, broken, str(tmp_path / "broken")) == [None, None]
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("unbroken", "broken"))
    assert one["iteration"] == two["iteration"] == 6
    for part in ("model", "ema"):
        assert all(torch.equal(tensor, two[part][name]) for name, tensor in one[part].items())


def wait_for_iteration(processes: Sequence[subprocess.Popen[str]], out: Path, iteration: int) -> None:
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + PATIENCE
    while not (metrics.exists() and any(row["iteration"] >= iteration for row in complete_rows(metrics))):
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def complete_rows(metrics: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in metrics.read_text().splitlines(keepends=True) if row.endswith("\n")]


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, and what was said."""
    said, complaint = process.communicate(timeout=PATIENCE)
    return process.returncode, said, complaint


def test_a_signal_to_one_ends_all_after_the_same_step_and_a_death_ends_all(painted: Path, tmp_path: Path) -> None:
    """The run goes on with two processes, is broken off, and goes on with one."""
    out = tmp_path / "run"
    often = ("--eval-interval", 0, "--save-interval", 3)
    with scripts("train.py", *flags(painted, out, "--iterations", LONG, *often)) as processes:
        wait_for_iteration(processes, out, 60)
        processes[1].send_signal(signal.SIGTERM)
        outcomes = [outcome(process) for process in processes]
    assert [code for code, _, _ in outcomes] == [143, 143], outcomes
    assert outcomes[0][1].splitlines()[-1].endswith(f"go on with: python train.py --resume {out}")
    assert outcomes[1][1] == ""  # only the first process prints
    stopped_at = load_checkpoint(out / "last.pt")["iteration"]
    assert stopped_at >= 60

    with scripts("train.py", "--resume", out) as processes:
        wait_for_iteration(processes, out, stopped_at + 60)
        processes[1].kill()
        code, _, complaint = outcome(processes[0])
    assert code == 4
    (line,) = [line for line in complaint.splitlines() if line.startswith("yolov4: error: ")]
    assert line.startswith("yolov4: error: rank 0: lost another process of this run")
    assert "Traceback" not in complaint

    saved = load_checkpoint(out / "last.pt")["iteration"]
    assert saved > stopped_at and saved % 3 == 0
    train.main(["--resume", str(out), "--iterations", str(saved + 2)])
    assert load_checkpoint(out / "last.pt")["iteration"] == saved + 2


def test_a_process_that_hangs_ends_the_run(painted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = flags(painted, out, "--iterations", LONG, "--eval-interval", 0, "--rank-timeout", 10)
    with scripts("train.py", *argv) as processes:
        wait_for_iteration(processes, out, 20)
        processes[1].send_signal(signal.SIGSTOP)
        code, _, complaint = outcome(processes[0])
    assert code == 4
    assert "yolov4: error: rank 0: lost another process of this run" in complaint


def test_torchrun_hands_on_a_signal(painted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = flags(painted, out, "--iterations", LONG, "--eval-interval", 0)
    with subprocess.Popen(
        [*command, str(ROOT / "train.py"), *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            wait_for_iteration([launcher], out, 20)
            launcher.send_signal(signal.SIGTERM)
            _, said, _ = outcome(launcher)
        finally:
            launcher.kill()
    assert f"go on with: python train.py --resume {out}" in said
    assert load_checkpoint(out / "last.pt")["iteration"] >= 20
