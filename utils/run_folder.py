"""The folder of one run: numbered without races, locked while in use; names of the files in it."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from typing import IO

from utils.errors import EnvironmentFault

try:
    import fcntl
except ImportError:  # Windows: runs are numbered without races there too, but not locked
    fcntl = None  # type: ignore[assignment]

_MOST_RUNS = 100_000


def new_run_folder(parent: Path, name: str) -> Path:
    """Make ``parent/name``, or ``name2``, ``name3`` ... where that exists; os.mkdir decides who gets which."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, _MOST_RUNS):
        folder = parent / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise EnvironmentFault(f"{parent}: {_MOST_RUNS} runs named {name}; remove some or give --out")


def lock_folder(folder: Path) -> IO[str]:
    """Keep other processes from training into ``folder`` while the returned file is open.

    A record lock belongs to the process alone: loading processes that outlive a killed training by seconds do not
    keep it, so that the run can be resumed at once.

    Raises:
        EnvironmentFault: another live process holds it.
    """
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise EnvironmentFault(f"{folder}: in use by {holder}; wait for it, or give another --out") from None
        # else a file system without locks, where nobody can be kept out
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def file_name(text: str) -> str:
    """``text`` as the name of a file: a class called ``../x`` must not leave its folder."""
    return re.sub(r"[^\w .+-]", "_", text).strip(" .")[:100] or "_"
