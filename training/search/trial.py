"""A training as a child process: started, followed by the rows of its metrics.jsonl, stopped early where wanted."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LOG = "log.txt"  # what the training prints, in its run folder
_POLL = 0.25  # seconds
_PATIENCE = 60  # seconds for a training to save itself after a signal

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG

Row = Mapping[str, Any]


def run_training(
    command: Sequence[str], folder: Path, *, hopeless: Callable[[Row], bool], stop_signal: Callable[[], int | None]
) -> int | None:
    """Run ``command``, a train.py that writes into ``folder``, to its end.

    The child gets a session of its own: a Ctrl-C in the terminal reaches it once, through this process, so that it
    saves itself. On Linux it also gets a signal when this process is killed, so that nobody trains into a folder that
    the next search wants.

    Args:
        hopeless: gets each row of metrics.jsonl once, those of before a resumption too; True ends the training.
        stop_signal: the signal to end with, or None.

    Returns:
        The exit code; None where ``hopeless`` or ``stop_signal`` ended it.
    """
    rows = _NewRows(folder / "metrics.jsonl")
    if any(map(hopeless, rows.read())):  # it was just about to be ended when the search itself was
        return None
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_the_parent if _LIBC else None,
        )
    try:
        while True:
            code = child.poll()  # before reading: what is read then is all
            number = signal.SIGTERM if any(map(hopeless, rows.read())) else stop_signal()
            if number is not None:
                _end(child, number)
                return None
            if code is not None:
                return code
            time.sleep(_POLL)
    finally:
        if child.poll() is None:  # only where this process is ended in haste
            child.kill()
            child.wait()


def last_line(folder: Path) -> str:
    """The last line a training printed, which is its error where it failed."""
    text = (folder / LOG).read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].removeprefix("yolov4: error: ") if lines else "no word"


def _end_with_the_parent() -> None:
    """In the child: ask for SIGTERM when the parent dies."""
    assert _LIBC is not None
    _LIBC.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _end(child: subprocess.Popen, number: int) -> None:
    """Let the training save itself and go."""
    child.send_signal(number)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class _NewRows:
    """The rows of a growing metrics.jsonl, each once; a resumed training cuts some and writes them again."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, {"loss": 0, "seconds": 0}

    def read(self) -> Iterator[Row]:
        """Rows that were not there before."""
        if not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                return
            row = json.loads(line)
            kind = "seconds" if "seconds" in row else "loss"  # of an evaluation, or of a step
            if row["iteration"] > self._seen[kind]:
                self._seen[kind] = row["iteration"]
                yield row
