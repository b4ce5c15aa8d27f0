"""The record of a training run: progress bar, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.atomic import atomic_write

_TENSORBOARD_EVERY = 10  # iterations
_LINE_EVERY = 30  # seconds between the lines that stand for the bar where there is no terminal
_SHOWN = (("ap50", "ap", "ap75"), ("top1", "top5"))  # of a detector, of a classifier


class RunLog:
    """Shows and records what a run does.

    Args:
        folder: the run folder; holds metrics.jsonl and the TensorBoard events.
        start, total: first and last iteration.
        images_per_iteration: for the images/s of the bar.
    """

    def __init__(self, folder: Path, *, start: int, total: int, images_per_iteration: int) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = _Board(folder, start)
        self._every = max(1, total // 5000)  # a long run keeps some 5,000 lines
        self._images = images_per_iteration
        self._total = total
        self._began = time.monotonic() - _seconds_before(folder / "metrics.jsonl")
        self._smooth: dict[str, float] = {}
        # positions are images: the rate shown is then images/s, and time left follows from it
        self._bar = tqdm(
            total=total * self._images, initial=start * self._images, unit="image", dynamic_ncols=True,
            mininterval=0.5, disable=None, file=sys.stderr,
        )  # fmt: skip
        self._said = time.monotonic()

    def step(self, iteration: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Record one optimiser step; ``iteration`` counts from 1."""
        for name, value in losses.items():
            before = self._smooth.get(name, value)
            self._smooth[name] = 0.9 * before + 0.1 * value  # Darknet's running average
        terms = " ".join(f"{name} {value:.3g}" for name, value in self._smooth.items())
        self._bar.set_postfix_str(f"{terms} lr {learning_rate:.2g}", refresh=False)
        self._bar.update(self._images)
        if self._bar.disable and time.monotonic() - self._said > _LINE_EVERY:
            self._said = time.monotonic()
            self.note(f"iteration {iteration} of {self._total}: {terms} lr {learning_rate:.2g}")
        if iteration % self._every == 0:
            self._write({"iteration": iteration, **losses, "lr": learning_rate})
        if iteration % _TENSORBOARD_EVERY == 0:
            self._board.scalars(
                {**{f"loss/{name}": value for name, value in losses.items()}, "lr": learning_rate}, iteration
            )

    def evaluation(self, iteration: int, metrics: Mapping[str, float], board: str = "coco") -> None:
        """Record the metrics after ``iteration`` steps and show the two that matter.

        Args:
            metrics: of a detector (``ap50``, ``ap`` ...) or of a classifier (``top1``, ``top5``).
            board: their group in TensorBoard.
        """
        self._write({"iteration": iteration, **metrics, "seconds": time.monotonic() - self._began})
        self._board.scalars({f"{board}/{name}": value for name, value in metrics.items()}, iteration)
        shown = "  ".join(f"{metric_title(name)} {metrics[name]:.3f}" for name in shown_metrics(metrics)[:2])
        self.note(f"iteration {iteration}: {shown}")

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Add a uint8 (H, W, 3) RGB picture to TensorBoard."""
        self._board.picture(name, image, iteration)

    def curve(self, name: str, precision: np.ndarray, iteration: int) -> None:
        """Add a precision-recall curve to TensorBoard; ``precision`` is at evenly spaced recalls from 0 to 1."""
        self._board.curve(name, np.linspace(0, 1, len(precision)), precision, iteration)

    def note(self, line: str) -> None:
        """Print a line without tearing the bar."""
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """End the bar and flush the files."""
        self._bar.close()
        self._file.close()
        self._board.close()

    def _write(self, row: Mapping[str, float]) -> None:
        self._file.write(json.dumps({key: _plain(value) for key, value in row.items()}) + "\n")
        self._file.flush()


class SilentLog:
    """Takes what a `RunLog` takes, and keeps nothing of it: for the processes that leave the record to the first."""

    def step(self, iteration: int, losses: Mapping[str, float], learning_rate: float) -> None:
        """Nothing."""

    def evaluation(self, iteration: int, metrics: Mapping[str, float], board: str = "coco") -> None:
        """Nothing."""

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Nothing."""

    def curve(self, name: str, precision: np.ndarray, iteration: int) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def cut_metrics(path: Path, iteration: int) -> None:
    """Drop the rows of ``metrics.jsonl`` beyond ``iteration``: a resumed run writes them again."""
    if not path.exists():
        return
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and json.loads(row)["iteration"] <= iteration]
    if len(kept) < len(rows):
        with atomic_write(path, binary=False) as file:
            file.write("".join(kept))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All rows of a metrics.jsonl."""
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]


def shown_metrics(row: Mapping[str, float]) -> tuple[str, ...]:
    """The metrics of an evaluation that are shown, the one that decides first; none for another row."""
    return next((names for names in _SHOWN if names[0] in row), ())


def metric_title(metric: str) -> str:
    """How a metric is written: AP50, top-1."""
    return metric.replace("top", "top-") if metric.startswith("top") else metric.upper()


def evaluation_table(rows: Sequence[Mapping[str, float]], best: int) -> Iterator[str]:
    """The lines of a table of a run's evaluations; that of iteration ``best`` is marked.

    Args:
        rows: of a metrics.jsonl.
    """
    evaluations = [row for row in rows if shown_metrics(row)]
    names = shown_metrics(evaluations[0]) if evaluations else _SHOWN[0]
    yield " ".join([f"{'iteration':>9} {'minutes':>8}", *(f"{metric_title(name):>6}" for name in names)])
    for row in evaluations:
        scores = " ".join(f"{row[name]:6.3f}" for name in names)
        yield f"{row['iteration']:9} {row['seconds'] / 60:8.1f} {scores}" + "  best" * (row["iteration"] == best)


def _seconds_before(path: Path) -> float:
    """Time a resumed run had taken at its last evaluation."""
    return max((row.get("seconds", 0.0) for row in read_metrics(path)), default=0.0)


def _plain(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


class _Board:
    """TensorBoard that gives up with one warning instead of ending the run when its disk is full."""

    def __init__(self, folder: Path, start: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own imports
            from torch.utils.tensorboard import SummaryWriter

        self._usual_hook = threading.excepthook
        threading.excepthook = self._on_thread_exception
        self._writer: SummaryWriter | None = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def scalars(self, values: Mapping[str, float], iteration: int) -> None:
        for name, value in values.items():
            self._call("add_scalar", name, value, iteration)

    def picture(self, name: str, image: np.ndarray, iteration: int) -> None:
        self._call("add_image", name, image, iteration, dataformats="HWC")

    def curve(self, name: str, recall: np.ndarray, precision: np.ndarray, iteration: int) -> None:
        # counts are not known here and TensorBoard only draws the two rows that follow
        count = len(recall)
        zeros = np.zeros(count)
        self._call("add_pr_curve_raw", name, zeros, zeros, zeros, zeros, precision, recall, iteration, count)

    def close(self) -> None:
        self._call("close")
        threading.excepthook = self._usual_hook

    def _on_thread_exception(self, args: threading.ExceptHookArgs) -> None:
        """No traceback of the writing thread where its disk is full: the next call raises the same here."""
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard")):
            self._usual_hook(args)

    def _call(self, method: str, *arguments: object, **options: object) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments, **options)
        except OSError as error:
            self._writer = None
            print(f"yolov4: warning: TensorBoard events stop here ({error}); training goes on", file=sys.stderr)
