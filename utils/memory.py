"""How much memory there is to take, and keeping what was taken."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # folder, limit and use of the container this process runs in: version 2, version 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_NEVER = 2**31 - 1  # bytes, the most that mallopt takes
_GIVEN_BACK = "inactive_file"  # in memory.stat: files kept in memory only until somebody else wants it


def available_memory() -> int:
    """Bytes that may still be taken without swapping: of the machine, and of the container."""
    return min([_of_machine(), *_of_container()])


def keep_freed_memory() -> None:
    """Let this process's malloc hand out again what was freed, and never give it back to the system.

    Each step of a training frees what the next one takes, gigabytes in tensors of megabytes. glibc gives such tensors
    back, and the first touch of every page of the next costs a fault: a tenth of a step's time on a CPU. Nothing
    happens with another C library.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        malloc_option = ctypes.CDLL(None).mallopt
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            malloc_option(parameter, _NEVER)


def _of_machine() -> int:
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_container() -> list[int]:
    """What each limit leaves; "max" is none."""
    left = []
    for folder, limit, used in _CGROUPS:
        if (folder / limit).exists() and (most := (folder / limit).read_text().strip()).isdigit():
            left.append(max(0, int(most) - int((folder / used).read_text()) + _given_back(folder / "memory.stat")))
    return left


def _given_back(statistics: Path) -> int:
    lines = statistics.read_text().splitlines() if statistics.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{_GIVEN_BACK} ")), 0)
