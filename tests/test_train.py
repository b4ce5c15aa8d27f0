"""train.py from end to end: a network of 16,000 parameters, twelve painted images, seconds for a training."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from data.formats.dataset import load_dataset
from evaluation.detection import Settings, evaluate_network
from export.commands import main as export_main
from models import load_network
from models.losses.darknet import DarknetLoss
from tests.painted import CFG, NAMES
from tests.trainings import flags, short
from training import detection
from training.log import RunLog, read_metrics
from utils import cli
from utils.cfg import load_cfg, parse_cfg
from utils.checkpoint import load_checkpoint
from utils.errors import CfgError, Diverged, EnvironmentFault, InputError, UsageError, WeightsError
from utils.image import read_image

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")

ROOT = Path(__file__).resolve().parents[1]
ITERATIONS = 24  # of the runs that are stopped and resumed


def exact_flags(painted: Path, out: Path, *more: object) -> list[str]:
    return flags(painted, out, "--iterations", ITERATIONS, "--eval-interval", 8, "--mosaic", 0.5, *more)


# --- one training that is let finish -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder, and what was printed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    more = ("--iterations", 300, "--eval-interval", 100, "--mosaic", 0, "--set", "burn_in=12")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train.main(flags(painted, out, *more))
    return out, printed.getvalue()


def test_the_network_learns_its_images(finished: tuple[Path, str]) -> None:
    last = read_metrics(finished[0] / "metrics.jsonl")[-1]
    assert last["iteration"] == 300
    assert last["ap50"] > 0.9


def test_metrics_rows(finished: tuple[Path, str]) -> None:
    rows = read_metrics(finished[0] / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["iteration"] for row in steps] == list(range(1, 301))
    for row in steps:
        assert row.keys() == {"iteration", "loss", "box", "objectness", "classes", "lr"}
        assert row["loss"] == pytest.approx(row["box"] + row["objectness"] + row["classes"], rel=1e-4)
    assert steps[-1]["loss"] < 0.3 * steps[0]["loss"]
    # .01 * (6 / 12)^4 at the sixth of 12 warm-up steps, the cosine's lowest at the end
    assert steps[5]["lr"] == pytest.approx(0.01 / 16)
    assert steps[-1]["lr"] == pytest.approx(0.0001)
    evaluations = [row for row in rows if "ap50" in row]
    assert [row["iteration"] for row in evaluations] == [100, 200, 300]
    assert {"ap", "ap50", "ap75", "ap_small", "ar_100", "seconds"} <= evaluations[0].keys()


def test_cfg_and_flags_of_the_run(finished: tuple[Path, str], painted: Path) -> None:
    trained = load_cfg(finished[0] / "network.cfg")
    saved = load_checkpoint(finished[0] / "last.pt")
    assert trained.layers == parse_cfg(saved["cfg"]).layers == load_cfg(painted / "painted.cfg").layers
    assert (trained.net.batch, trained.net.subdivisions, trained.net.max_batches) == (8, 1, 300)
    assert saved["names"] == list(NAMES)
    args = json.loads((finished[0] / "args.json").read_text())
    assert (args["iterations"], args["mosaic"], args["seed"]) == (300, 0.0, 0)


def test_every_file_of_the_run_folder(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    files = {path.name for path in folder.iterdir()}
    assert {"best.pt", "best.weights", "last.pt", "last.weights", "network.cfg", "args.json"} <= files
    assert {"metrics.jsonl", "results.png", "mosaic.jpg"} <= files
    assert [name for name in files if name.startswith("events.out.tfevents")]
    assert not [name for name in files if name.endswith(".tmp")]
    assert read_image(folder / "results.png").std() > 10
    assert read_image(folder / "mosaic.jpg").shape[0] > 128  # eight images of 64 pixels, three to a row
    assert "AP50" in printed and "  best" in printed and "best.weights" in printed.splitlines()[-1]


def test_tensorboard_events(finished: tuple[Path, str]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(finished[0]))
    board.Reload()
    assert {"loss/loss", "loss/box", "lr", "coco/ap50"} <= set(board.Tags()["scalars"])
    assert {"first batch", "detections"} <= set(board.Tags()["images"])
    assert [event.step for event in board.Scalars("coco/ap50")] == [100, 200, 300]


@pytest.mark.parametrize("name", ["best.weights", "best.pt"])
def test_saved_weights_measure_what_the_run_measured(finished: tuple[Path, str], painted: Path, name: str) -> None:
    network = load_network(finished[0] / "network.cfg", finished[0] / name, fuse=False)
    again = evaluate_network(network, load_dataset(painted, "val"), Settings(workers=0), progress=False)
    best = json.loads((finished[0] / "best.json").read_text())
    assert again.metrics.ap50 == pytest.approx(best["ap50"], abs=1e-3)
    assert again.metrics.ap == pytest.approx(best["ap"], abs=1e-3)


@pytest.mark.parametrize("name", ["best", "last"])
def test_an_exported_checkpoint_is_the_weights_beside_it(finished: tuple[Path, str], name: str, tmp_path: Path) -> None:
    export_main(["--weights", str(finished[0] / f"{name}.pt"), "--weights-out", str(tmp_path / "a.weights")])
    assert (tmp_path / "a.weights").read_bytes() == (finished[0] / f"{name}.weights").read_bytes()
    assert load_cfg(tmp_path / "a.cfg") == load_cfg(finished[0] / "network.cfg")


def test_a_finished_run_is_made_longer(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "longer"))
    train.main(["--resume", str(folder), "--iterations", "304", "--eval-interval", "0"])
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows if "loss" in row] == list(range(1, 305))
    assert load_cfg(folder / "network.cfg").net.max_batches == 304
    assert rows[-1]["seconds"] > max(row["seconds"] for row in rows[:-1] if "seconds" in row)  # time goes on


def test_pretrained_weights_are_a_start(finished: tuple[Path, str], painted: Path, tmp_path: Path) -> None:
    start = ("--weights", finished[0] / "best.weights", "--set", "burn_in=0", "--set", "learning_rate=1e-9")
    train.main(short(painted, tmp_path / "run", *start))
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["ap50"] > 0.9


# --- stopped and resumed, to the bit -----------------------------------------------------------------------------


def fingerprint(folder: Path) -> tuple[str, list[dict[str, float]]]:
    """A hash of all that last.pt keeps, and the metrics rows without the time they took."""
    digest = hashlib.sha256()
    _feed(digest, load_checkpoint(folder / "last.pt"))
    rows = [
        {key: value for key, value in row.items() if key != "seconds"} for row in read_metrics(folder / "metrics.jsonl")
    ]
    return digest.hexdigest(), rows


def _feed(digest: hashlib._Hash, value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            digest.update(str(key).encode())
            _feed(digest, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    elif isinstance(value, torch.Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    else:
        digest.update(repr(value).encode())


@pytest.fixture(scope="module")
def unbroken(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, float]]]:
    """What a run ends with that nobody stopped."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    train.main(exact_flags(painted, out))
    return fingerprint(out)


def signal_after(monkeypatch: pytest.MonkeyPatch, iteration: int, number: int) -> None:
    """Let this process get a signal in the middle of a step."""
    real = RunLog.step

    def step(self: RunLog, at: int, *rest: Any) -> None:
        real(self, at, *rest)
        if at == iteration:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "step", step)


@pytest.mark.parametrize(
    ("number", "code", "iteration", "workers"), [(signal.SIGINT, 130, 8, 0), (signal.SIGTERM, 143, 11, 1)]
)
def test_a_signal_ends_with_its_code_and_the_run_goes_on_exactly(
    painted: Path,
    tmp_path: Path,
    unbroken: tuple[str, list],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
    iteration: int,
    workers: int,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        signal_after(patched, iteration, number)
        train.main(exact_flags(painted, out, "--save-interval", 3))
    assert ended.value.code == code
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"go on with: python train.py --resume {out}")
    assert load_checkpoint(out / "last.pt")["iteration"] == iteration
    train.main(["--resume", str(out), "--workers", str(workers)])
    assert fingerprint(out) == unbroken


def start(painted: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    """train.py in a process group of its own; resumes what is there."""
    new = exact_flags(painted, out, "--save-interval", 2, "--workers", 1)
    command = ["--resume", str(out)] if (out / "last.pt").exists() else new
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command, *map(str, more)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_iteration(process: subprocess.Popen[str], out: Path, iteration: int) -> None:
    metrics, mark = out / "metrics.jsonl", f'"iteration": {iteration},'
    deadline = time.monotonic() + 300  # a first start builds the operators
    while not (metrics.exists() and mark in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_whole_process_group_is_ended_and_the_run_goes_on_exactly(
    painted: Path, tmp_path: Path, unbroken: tuple[str, list], number: int, code: int
) -> None:
    """As batch systems do it: the loading processes get the signal too."""
    out = tmp_path / "run"
    with start(painted, out) as process:
        wait_for_iteration(process, out, 5)
        os.killpg(process.pid, number)
        said = process.stderr.read()
        assert process.wait(60) == code, said
    assert "Traceback" not in said
    (out / "last.pt.12345.tmp").write_bytes(b"what a kill in the middle of saving leaves")
    train.main(["--resume", str(out), "--workers", "0"])
    assert fingerprint(out) == unbroken
    assert not list(out.glob("*.tmp"))


def test_saving_takes_no_part_in_what_is_computed(
    painted: Path, tmp_path: Path, unbroken: tuple[str, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.schedule.intervals._SAVE_SECONDS", 0)
    train.main(exact_flags(painted, tmp_path / "run"))
    assert fingerprint(tmp_path / "run") == unbroken


@pytest.mark.soak
def test_twenty_five_kills_at_random_times(painted: Path, tmp_path: Path, unbroken: tuple[str, list]) -> None:
    out, rng, kills = tmp_path / "run", random.Random(0), 0
    while kills < 25:
        process = start(painted, out)
        if out.exists():
            # into the imports, the scan, the restoring, or some steps of the run, whose end is put off
            time.sleep(rng.uniform(0, 8))
        else:
            wait_for_iteration(process, out, 2)
        kills += process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (out / "last.pt").exists() and load_checkpoint(out / "last.pt")["iteration"] == ITERATIONS:
            assert fingerprint(out) == unbroken
            shutil.rmtree(out)
    with start(painted, out) as process:
        assert process.wait(120) == 0, process.stderr.read()
    assert fingerprint(out) == unbroken


# --- resuming what cannot be resumed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations on a copy of the data."""
    folder = tmp_path_factory.mktemp("stopped")
    data = Path(shutil.copytree(painted, folder / "data"))
    train.main(short(data, folder / "run"))
    return folder / "run"


@pytest.mark.parametrize("flag", [("--batch", "4"), ("--seed", "1"), ("--set", "momentum=.5"), ("--cfg", "other.cfg")])
def test_resume_refuses_what_would_make_it_another_run(stopped: Path, flag: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=f"--resume goes on as the run began; {flag[0]} cannot change"):
        train.main(["--resume", str(stopped), *flag])


def test_resume_refuses_other_images(stopped: Path) -> None:
    annotations = stopped.parent / "data" / "instances_train.json"
    content = annotations.read_text()
    coco = json.loads(content)
    coco["annotations"].pop()
    annotations.write_text(json.dumps(coco))
    try:
        with pytest.raises(InputError, match=r"trained on 12 images \(\w+\), --data now gives 12 images"):
            train.main(["--resume", str(stopped)])
    finally:
        annotations.write_text(content)


def test_resume_refuses_a_checkpoint_without_the_state_of_a_training(stopped: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    shutil.copy(folder / "best.pt", folder / "last.pt")
    with pytest.raises(WeightsError, match=r"last\.pt: cannot go on from it \('ema_state'\); start a new run"):
        train.main(["--resume", str(folder)])


def test_an_existing_run_is_not_overwritten(stopped: Path, painted: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already; go on with --resume"):
        train.main(short(painted, stopped))


def test_two_processes_cannot_train_into_one_folder(painted: Path, tmp_path: Path) -> None:
    holder = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); f.write('process 7'); "
    holder += "f.flush(); print('locked', flush=True); sys.stdin.read()"
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", holder, str(tmp_path / "run" / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(EnvironmentFault, match="run: in use by process 7; wait for it, or give another --out"):
            train.main(short(painted, tmp_path / "run"))
        other.communicate()
    assert not (tmp_path / "run" / "args.json").exists()


# --- flags -------------------------------------------------------------------------------------------------------


def test_patience_ends_a_training_that_gets_no_better(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--iterations", 50, "--eval-interval", 1, "--patience", 3, "--set", "learning_rate=0")
    train.main(flags(painted, tmp_path / "run", *more))
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] < 10
    assert "none of the last 3 evaluations was better: stopping early" in capsys.readouterr().out


def test_frozen_layers_stay_to_the_bit(painted: Path, tmp_path: Path) -> None:
    states = []
    for name, iterations in (("one", 1), ("ten", 10)):  # their networks start the same
        more = ("--freeze", 2, "--iterations", iterations, "--set", "burn_in=0")
        train.main(flags(painted, tmp_path / name, *more))
        states.append(load_checkpoint(tmp_path / name / "last.pt"))
    for part in ("model", "ema"):
        first, second = (state[part] for state in states)
        same = {name for name, tensor in first.items() if torch.equal(tensor, second[name])}
        assert same == {name for name in first if name.split(".")[1] in "01"}, part


def nan_images_at(monkeypatch: pytest.MonkeyPatch, *wanted: int) -> None:
    """Let the images of these mini-batches, counted from 1 over all tries, be NaN."""
    real, calls = detection.to_input, []

    def to_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
        calls.append(1)
        return real(images, device) * (torch.nan if len(calls) in wanted else 1)

    monkeypatch.setattr(detection, "to_input", to_input)


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_images(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_images_at(monkeypatch, 4)
    more = ("--iterations", 9, "--save-interval", 1, "--mosaic", 0, "--on-divergence", "stop")
    with pytest.raises(Diverged, match=r"iteration 4: the loss is nan .* on .*/train/\d\d\.png, ") as fault:
        train.main(flags(painted, tmp_path / "run", *more))
    assert cli.describe(fault.value)[1] == 5
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] == 3  # which also checks for NaN


def test_what_diverges_once_goes_on_from_the_last_checkpoint_with_half_the_rate(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nan_images_at(monkeypatch, 6)
    more = ("--iterations", 9, "--save-interval", 2, "--mosaic", 0, "--set", "burn_in=0")
    train.main(flags(painted, tmp_path / "run", *more))
    printed = capsys.readouterr().out
    assert "once more from iteration 4 with half the learning rate, 0.005 (--on-divergence stop: not)" in printed
    saved = load_checkpoint(tmp_path / "run" / "last.pt")
    net = parse_cfg(saved["cfg"]).net
    assert (saved["iteration"], saved["restarts"], net.learning_rate, net.learning_rate_min) == (9, 1, 0.005, 0.00005)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert [row["iteration"] for row in rows] == list(range(1, 10))
    assert rows[4]["lr"] < 0.6 * rows[3]["lr"]
    assert load_cfg(tmp_path / "run" / "network.cfg").net.learning_rate == 0.005


def test_without_a_checkpoint_it_begins_again(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nan_images_at(monkeypatch, 1)
    train.main(short(painted, tmp_path / "run"))
    assert "once more from the beginning with half the learning rate" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run" / "last.pt")["restarts"] == 1


def test_what_diverges_twice_is_given_up_also_when_resumed(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_images_at(monkeypatch, 4, 7)  # of iterations 4 and 6: 3 are saved, then 4 and 5 once more
    with pytest.raises(Diverged, match="iteration 6: the loss is nan"):
        train.main(flags(painted, tmp_path / "run", "--iterations", 9, "--save-interval", 1, "--mosaic", 0))
    nan_images_at(monkeypatch, 1)
    with pytest.raises(Diverged, match="iteration 6: the loss is nan"):
        train.main(["--resume", str(tmp_path / "run")])


def test_a_gradient_that_is_not_finite_is_not_stepped_on(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steep(DarknetLoss):
        """Its value is finite, its slope is not."""

        def __call__(self, raws, targets):
            losses = super().__call__(raws, targets)
            return dataclasses.replace(losses, total=losses.total + (raws[0].sum() * 0).sqrt())

    monkeypatch.setattr(detection, "make_criterion", lambda network, *_: Steep(network.heads))
    with pytest.raises(Diverged, match=r"iteration 1: the gradient's norm is nan on .*\.png, "):
        train.main(short(painted, tmp_path / "run", "--mosaic", 0))
    assert not (tmp_path / "run" / "last.pt").exists()


def test_an_absurd_learning_rate_ends_as_diverged_and_saves_no_nan(painted: Path, tmp_path: Path) -> None:
    absurd = ("--set", "learning_rate=1000", "--set", "burn_in=0", "--set", "decay=1", "--save-interval", 1)
    with pytest.raises(Diverged, match="lower learning_rate"):
        train.main(flags(painted, tmp_path / "run", "--iterations", 60, "--eval-interval", 0, *absurd))
    load_checkpoint(tmp_path / "run" / "last.pt")


def test_heads_are_made_for_the_classes_of_the_data(
    painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tmp_path / "eighty.cfg"
    cfg.write_text(CFG.replace("classes=2", "classes=80").replace("filters=14", "filters=170"))
    train.main(short(painted, tmp_path / "run", "--cfg", cfg))
    assert f"eighty.cfg: heads adapted to the 2 classes of {painted}" in capsys.readouterr().out
    assert load_cfg(tmp_path / "run" / "network.cfg").layers[-1].classes == 2
    load_network(tmp_path / "run" / "network.cfg", tmp_path / "run" / "best.weights")


def test_flags_that_change_the_cfg(painted: Path, tmp_path: Path) -> None:
    more = ("--activation", "leaky", "--size", "96x64", "--letterbox", "--batch", 6, "--set", "momentum=.8")
    train.main(short(painted, tmp_path / "run", *more))
    config = load_cfg(tmp_path / "run" / "network.cfg")
    assert [layer.activation for layer in config.layers if layer.kind == "convolutional"] == ["leaky"] * 5 + ["linear"]
    assert (config.net.height, config.net.width, config.net.batch, config.net.momentum) == (96, 64, 6, 0.8)
    assert config.net.letter_box


def test_bf16_trains_on_the_cpu_and_goes_on_exactly(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--precision", "bf16", "--iterations", 6, "--eval-interval", 0, "--no-scan")
    train.main(flags(painted, tmp_path / "whole", *more))
    assert "training on cpu in bf16" in capsys.readouterr().out
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        signal_after(patched, 3, signal.SIGTERM)
        train.main(flags(painted, tmp_path / "broken", *more))
    train.main(["--resume", str(tmp_path / "broken")])
    assert fingerprint(tmp_path / "broken") == fingerprint(tmp_path / "whole")
    assert load_checkpoint(tmp_path / "whole" / "last.pt")["model"]["layers.0.conv.weight"].dtype == torch.float32


def test_subdivisions_give_what_one_pass_gives(painted: Path, tmp_path: Path) -> None:
    """Without batch norm a batch's gradient is the sum over its parts; mosaics end at the same step."""
    cfg = tmp_path / "plain.cfg"
    text = CFG.replace("batch_normalize=1\n", "").replace("probability=.02", "probability=0")
    cfg.write_text(text.replace("ignore_thresh=.7", "ignore_thresh=2"))  # a threshold makes a jump of a last digit
    losses = []
    for parts in (1, 4):
        out = tmp_path / f"run{parts}"
        more = ("--iterations", 8, "--subdivisions", parts, "--eval-interval", 0, "--set", "burn_in=0")
        train.main(flags(painted, out, *more, "--cfg", cfg, "--no-scan"))
        losses.append([row["objectness"] for row in read_metrics(out / "metrics.jsonl") if "loss" in row])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_a_batch_takes_the_subdivisions_that_divide_it(painted: Path, tmp_path: Path) -> None:
    train.main(short(painted, tmp_path / "run", "--batch", 3))  # the cfg has 2
    with pytest.raises(UsageError, match=r"batch=8 is no multiple of subdivisions=3; give --batch and --subdivisions"):
        train.main(short(painted, tmp_path / "no", "--batch", 8, "--subdivisions", 3))


def test_a_network_without_a_head_is_not_trained(painted: Path, tmp_path: Path) -> None:
    (tmp_path / "other.cfg").write_text(CFG[: CFG.index("[yolo]")])
    with pytest.raises(CfgError, match=r"no \[yolo\].* section; classes=2 has no place"):
        train.main(short(painted, tmp_path / "run", "--cfg", tmp_path / "other.cfg"))


def test_images_without_objects(painted: Path, tmp_path: Path) -> None:
    """Nothing to measure by: the run goes through, and no evaluation is the best."""
    data = Path(shutil.copytree(painted, tmp_path / "data"))
    for split in ("train", "val"):
        coco = json.loads((data / f"instances_{split}.json").read_text())
        (data / f"instances_{split}.json").write_text(json.dumps({**coco, "annotations": []}))
    train.main(short(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "best.pt").exists()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["iteration"] == 2


def test_validation_has_the_classes_of_the_training(painted: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(painted, tmp_path / "data"))
    coco = json.loads((data / "instances_val.json").read_text())
    coco["categories"][0]["name"] = "green"
    (data / "instances_val.json").write_text(json.dumps(coco))
    with pytest.raises(InputError, match=r"'green', 'red' on one side only"):
        train.main(short(data, tmp_path / "run"))
