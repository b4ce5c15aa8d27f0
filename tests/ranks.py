"""Processes that find each other as torchrun's do: the tests' own process keeps the store, so no port is guessed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds for what takes five; the machine may be busy with other things


@contextmanager
def environments(size: int) -> Iterator[list[dict[str, str]]]:
    """What torchrun sets for each of ``size`` processes, and the store they meet at."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "OMP_NUM_THREADS": "1",
    }
    yield [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    del store


class Ranks:
    """Processes that wait for work, because starting one takes seconds. One that ends is not started again."""

    def __init__(self, size: int = 2) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def __call__(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``work(*arguments)`` returns in each process; of an exception its text, of a death "gone"."""
        with environments(len(self._pipes)) as all_environments:
            for pipe, environment in zip(self._pipes, all_environments, strict=True):
                pipe.send((environment, work, arguments))
            return [_answer(pipe) for pipe in self._pipes]


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(PATIENCE):
        return "silent"
    try:
        return pickle.loads(pipe.recv_bytes())
    except EOFError:
        return "gone"


def _work(pipe: Connection) -> None:
    while True:
        environment, work, arguments = pipe.recv()
        os.environ.update(environment)
        try:
            answer = work(*arguments)
        except BaseException as error:  # whatever it is, the test must see it
            answer = f"{type(error).__name__}: {error}"
        if dist.is_initialized():  # after an error
            dist.destroy_process_group()
        pipe.send_bytes(pickle.dumps(answer))  # not send, which would share the memory of tensors


@contextmanager
def scripts(name: str, *flags: object, size: int = 2) -> Iterator[list[subprocess.Popen[str]]]:
    """``python NAME FLAGS`` as ``size`` processes, by rank; those that still run at the end are killed."""
    command = [sys.executable, str(ROOT / name), *map(str, flags)]
    with environments(size) as all_environments:
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for environment in all_environments
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()
