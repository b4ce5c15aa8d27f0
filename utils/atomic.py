"""Files that are either the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from utils.errors import EnvironmentFault

_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM)


@contextmanager
def atomic_write(path: Path, *, binary: bool = True) -> Iterator[IO]:
    """Open a temporary file beside ``path`` and move it there once it is complete and on disk.

    The order is write, flush, fsync(file), rename, fsync(folder): after a crash or power loss ``path`` is
    whole. On any fault the temporary file is removed and ``path`` is what it was.

    Raises:
        EnvironmentFault: the disk is full, read-only or over quota.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb" if binary else "w", encoding=None if binary else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        written = temporary.stat().st_size if temporary.exists() else 0
        temporary.unlink(missing_ok=True)
        fault = disk_fault(error)
        if fault is not None:
            raise EnvironmentFault(_disk_message(path, written, fault)) from error
        raise


def remove_temporaries(folder: Path) -> None:
    """Remove the halves that a killed process left in ``folder``; nobody else may be writing there."""
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)


def disk_fault(error: BaseException) -> OSError | None:
    """The OSError of a disk that refuses to take more, where ``error`` is one or was raised from one.

    torch.save wraps the OSError of a full disk into a RuntimeError about file positions, with the original as context.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK_FAULTS:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _disk_message(path: Path, written: int, fault: OSError) -> str:
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB free"
    except OSError:
        free = "folder unreadable"
    kept = "the file there before is untouched" if path.exists() else "nothing was written"
    return (
        f"{path}: cannot write: {fault.strerror} ({written / 1e6:.0f} MB were written, {free}); {kept}; free some space"
    )


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write json that is whole or not there."""
    with atomic_write(path, binary=False) as file:
        json.dump(content, file, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or not there."""
    with atomic_write(path, binary=False) as file:
        file.write(text)
