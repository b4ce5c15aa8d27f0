"""utils.run_folder: numbers without races, one process to a folder, a lock that dies with its process."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from utils import run_folder
from utils.errors import EnvironmentFault
from utils.run_folder import file_name, lock_folder, new_run_folder

fork = multiprocessing.get_context("fork")


def test_numbers_go_up(tmp_path: Path) -> None:
    names = [new_run_folder(tmp_path / "runs" / "train", "yolov4").name for _ in range(3)]
    assert names == ["yolov4", "yolov42", "yolov43"]
    (tmp_path / "runs" / "train" / "yolov42").rmdir()
    assert new_run_folder(tmp_path / "runs" / "train", "yolov4").name == "yolov42"


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert new_run_folder(tmp_path, "run").name == "run2"
    assert (tmp_path / "run").read_text() == "mine"


def test_runs_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    for round_ in range(20):
        barrier = threading.Barrier(8)

        def start(_: int, parent: Path = tmp_path / str(round_), barrier: threading.Barrier = barrier) -> Path:
            barrier.wait()
            return new_run_folder(parent, "run")

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(start, range(8)))) == 8


def test_no_name_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_MOST_RUNS", 3)
    new_run_folder(tmp_path, "run"), new_run_folder(tmp_path, "run")
    with pytest.raises(EnvironmentFault, match=r"3 runs named run; remove some or give --out"):
        new_run_folder(tmp_path, "run")


def _try(folder: Path, answers: multiprocessing.Queue) -> None:
    try:
        lock_folder(folder).close()
    except EnvironmentFault as error:
        answers.put(str(error))
    else:
        answers.put("free")


def asked_by_another_process(folder: Path) -> str:
    answers = fork.Queue()
    process = fork.Process(target=_try, args=(folder, answers))
    process.start()
    answer = answers.get(timeout=30)
    process.join()
    return answer


def test_only_one_process_has_a_folder(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        answer = asked_by_another_process(tmp_path)
        assert answer.startswith(f"{tmp_path}: in use by process {os.getpid()} on ")
        assert answer.endswith("; wait for it, or give another --out")
    assert asked_by_another_process(tmp_path) == "free"


def _train_with_a_loading_process(folder: Path, started: multiprocessing.synchronize.Event) -> None:
    lock = lock_folder(folder)
    if os.fork() == 0:
        time.sleep(5)  # as a loading process that notices late that its training was killed
        os._exit(0)
    started.set()
    time.sleep(60)
    lock.close()


def test_a_killed_process_leaves_no_lock_though_its_children_live(tmp_path: Path) -> None:
    started = fork.Event()
    process = fork.Process(target=_train_with_a_loading_process, args=(tmp_path, started))
    process.start()
    assert started.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    lock_folder(tmp_path).close()


def test_a_file_system_without_locks_locks_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_where_there_are_no_locks_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "fcntl", None)
    with lock_folder(tmp_path), lock_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("../../etc", "_.._etc"),
        ("..", "_"),
        ("", "_"),
        ("a/b\\c:d", "a_b_c_d"),
        ("猫 1", "猫 1"),
        ("x" * 300, "x" * 100),
    ],
)
def test_file_name(text: str, expected: str) -> None:
    assert file_name(text) == expected
