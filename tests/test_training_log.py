"""training.log: what is recorded, what a resumed run makes of it, and logging that fails without ending the run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from training import log as runlog
from training.log import RunLog, cut_metrics, evaluation_table, read_metrics

METRICS = {"ap50": 0.5, "ap": 0.25}


@contextlib.contextmanager
def open_log(folder: Path, *, start: int = 0, total: int = 100) -> Iterator[RunLog]:
    log = RunLog(folder, start=start, total=total, images_per_iteration=4)
    try:
        yield log
    finally:
        log.close()


def test_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path) as log:
        log.step(1, {"loss": 3.00000049, "box": 1.0}, 0.001)
        log.step(2, {"loss": 2.0, "box": 0.5}, 0.002)
        log.evaluation(2, METRICS)
    first, second, evaluation = read_metrics(tmp_path / "metrics.jsonl")
    assert first == {"iteration": 1, "loss": 3.0, "box": 1.0, "lr": 0.001}
    assert second == {"iteration": 2, "loss": 2.0, "box": 0.5, "lr": 0.002}
    assert evaluation.pop("seconds") >= 0
    assert evaluation == {"iteration": 2, **METRICS}
    captured = capsys.readouterr()
    assert captured.out == "iteration 2: AP50 0.500  AP 0.250\n"
    assert captured.err == ""  # no bar where there is no terminal: an error is to be the only line


def test_a_classifier_is_measured_by_other_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path) as log:
        log.evaluation(20, {"top1": 0.5, "top5": 0.75}, board="top")
    assert capsys.readouterr().out == "iteration 20: top-1 0.500  top-5 0.750\n"
    assert [event.value for event in board_of(tmp_path).Scalars("top/top1")] == [0.5]


@pytest.mark.parametrize(
    ("metrics", "heading", "line"),
    [
        ({"ap50": 0.5, "ap": 0.25, "ap75": 0.125}, "AP50     AP   AP75", "0.500  0.250  0.125"),
        ({"top1": 0.5, "top5": 0.75}, "top-1  top-5", "0.500  0.750"),
    ],
)
def test_a_table_of_the_evaluations(metrics: dict[str, float], heading: str, line: str) -> None:
    rows = [{"iteration": 5, "loss": 1.0, "lr": 0.1}]
    rows += [{"iteration": iteration, **metrics, "seconds": 90.0} for iteration in (5, 10)]
    head, first, second = evaluation_table(rows, best=10)
    assert head.startswith("iteration  minutes") and head.endswith(heading)
    assert first == f"        5      1.5  {line}" and second == f"       10      1.5  {line}  best"
    assert len(list(evaluation_table(rows[:1], best=0))) == 1


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.step(1, {"loss": 1.0}, 0.1)
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_a_long_run_keeps_some_five_thousand_rows(tmp_path: Path) -> None:
    with open_log(tmp_path, total=500_500) as log:
        for iteration in range(1, 301):
            log.step(iteration, {"loss": 1.0}, 0.1)
    assert [row["iteration"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [100, 200, 300]


def test_without_a_terminal_a_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(runlog.time, "monotonic", lambda: now)
    with open_log(tmp_path) as log:
        for iteration in range(1, 8):
            now += 10
            log.step(iteration, {"loss": 2.0 if iteration == 1 else 1.0}, 0.1)
    # the fourth and the eighth come more than 30 seconds after the one before; loss 1 + .9^3 = 1.73
    assert capsys.readouterr().out == "iteration 4 of 100: loss 1.73 lr 0.1\n"


def test_a_resumed_run_counts_its_time_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(runlog.time, "monotonic", lambda: now)
    with open_log(tmp_path) as log:
        now += 7
        log.evaluation(10, METRICS)
    now = 900.0
    with open_log(tmp_path, start=10) as log:
        now += 5
        log.evaluation(20, METRICS)
    assert [row["seconds"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [7, 12]


def test_rows_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"iteration": n}) + "\n" for n in (1, 2, 2, 3, 4)))
    cut_metrics(path, 2)
    assert [row["iteration"] for row in read_metrics(path)] == [1, 2, 2]
    cut_metrics(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("torn", ['{"itera', '{"iteration": 2}', "", "{"])
def test_a_row_torn_by_a_kill_is_cut(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1}\n' + torn)
    cut_metrics(path, 5)
    assert path.read_text() == '{"iteration": 1}\n'


def test_nothing_to_cut(tmp_path: Path) -> None:
    cut_metrics(tmp_path / "metrics.jsonl", 5)
    assert not (tmp_path / "metrics.jsonl").exists()
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    cut_metrics(tmp_path / "metrics.jsonl", 5)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before


def board_of(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def test_tensorboard(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for iteration in range(1, 21):
            log.step(iteration, {"loss": float(iteration)}, 0.5)
        log.evaluation(20, METRICS)
        log.picture("first", np.zeros((4, 6, 3), np.uint8), 1)
        log.curve("precision", np.linspace(1, 0, 101), 20)
    board = board_of(tmp_path)
    assert [(event.step, event.value) for event in board.Scalars("loss/loss")] == [(10, 10.0), (20, 20.0)]
    assert [event.value for event in board.Scalars("coco/ap50")] == [0.5]
    assert (board.Images("first")[0].width, board.Images("first")[0].height) == (6, 4)
    assert "precision" in board.Tags()["tensors"]


def test_tensorboard_forgets_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (10, 2.0)):
        with open_log(tmp_path, start=start) as log:
            for iteration in range(start + 1, 31):
                log.step(iteration, {"loss": value}, 0.1)
    values = {event.step: event.value for event in board_of(tmp_path).Scalars("loss/loss")}
    assert values == {10: 1.0, 20: 2.0, 30: 2.0}


def test_a_full_disk_ends_tensorboard_but_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def add_scalar(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with open_log(tmp_path) as log:
        monkeypatch.setattr(SummaryWriter, "add_scalar", add_scalar)
        for iteration in range(1, 31):
            log.step(iteration, {"loss": 1.0}, 0.1)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 30
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "warning: TensorBoard events stop here ([Errno 28] No space left on device); training goes on" in warning


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.close()
