"""training.search.trial: a child that writes metrics is followed, ended early, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from training.search.trial import LOG, last_line, run_training

# Writes a row for each iteration it is told, then does what its last argument says.
CHILD = """
import json, signal, sys, time
def stop(number, frame):
    open("ended", "w").write(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
with open("metrics.jsonl", "a") as file:
    for row in json.loads(sys.argv[1]):
        file.write(json.dumps(row) + "\\n")
    file.write('{"iteration": 99, "lo')  # as far as it got
print("warning: something")
print("yolov4: error: the last word")
sys.stdout.flush()
if sys.argv[2] == "wait":
    time.sleep(60)
sys.exit(int(sys.argv[2]))
"""
ROWS = '[{"iteration": 1, "loss": 3}, {"iteration": 2, "loss": 2}, {"iteration": 2, "ap50": 0.5, "seconds": 1}]'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "child.py").write_text(CHILD)
    return tmp_path


def command(then: object, rows: str = ROWS) -> list[str]:
    return [sys.executable, "-S", "child.py", rows, str(then)]


def run(folder: Path, then: object, **more: object) -> tuple[int | None, list[dict]]:
    seen: list[dict] = []

    def look(row: dict) -> bool:
        seen.append(dict(row))
        return False

    options = {"hopeless": look, "stop_signal": lambda: None, **more}
    return run_training(command(then), folder, **options), seen


@pytest.mark.parametrize("code", [0, 3, 5])
def test_the_exit_code_and_every_whole_row(folder: Path, code: int) -> None:
    found, seen = run(folder, code)
    assert found == code
    assert [(row["iteration"], "ap50" in row) for row in seen] == [(1, False), (2, False), (2, True)]
    assert last_line(folder) == "the last word"


def test_no_word_at_all(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("\n \n")
    assert last_line(tmp_path) == "no word"


def test_a_hopeless_training_is_asked_to_end(folder: Path) -> None:
    assert run(folder, "wait", hopeless=lambda row: "ap50" in row)[0] is None
    assert (folder / "ended").read_text() == str(int(signal.SIGTERM))


def test_a_hopeless_training_is_not_begun_again(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"iteration": 2, "ap50": 0, "seconds": 1}\n')
    assert run(folder, 0, hopeless=lambda row: "ap50" in row)[0] is None
    assert not (folder / LOG).exists()


def test_rows_that_are_written_again_are_not_new(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"iteration": 1, "loss": 3}\n{"iteration": 2, "ap50": 0.5, "seconds": 1}\n')
    assert [(row["iteration"], "ap50" in row) for row in run(folder, 0)[1]] == [(1, False), (2, True), (2, False)]


def test_a_signal_is_handed_on_to_the_child_alone_in_its_session(folder: Path) -> None:
    rows = lambda: signal.SIGINT if (folder / "metrics.jsonl").exists() else None  # noqa: E731
    assert run(folder, "wait", stop_signal=rows)[0] is None
    assert (folder / "ended").read_text() == str(int(signal.SIGINT))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells the child")
def test_a_child_ends_when_its_search_is_killed(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from training.search.trial import run_training; "
        f"run_training({command('wait')!r}, Path('.'), hopeless=lambda row: False, stop_signal=lambda: None)"
    )
    root = str(Path(__file__).parents[1])
    search = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root})
    wait_for(folder / "metrics.jsonl")
    search.kill()
    search.wait()
    wait_for(folder / "ended")
    assert (folder / "ended").read_text() == str(int(signal.SIGTERM))


def wait_for(path: Path) -> None:
    """Until there is something in ``path``; a minute at most."""
    until = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)


def children() -> set[int]:
    """Process numbers of what this thread started, and what still runs of it."""
    own = Path("/proc/self/task") / str(threading.get_native_id()) / "children"
    return {int(entry) for entry in own.read_text().split()}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists the children of a process")
def test_a_child_does_not_outlive_an_exception(folder: Path) -> None:
    before, during = children(), set()

    def fail(_: object) -> bool:
        during.update(children() - before)
        raise SystemExit(130)

    with pytest.raises(SystemExit):
        run(folder, "wait", hopeless=fail)
    assert len(during) == 1
    assert not during & children()
