"""How much memory there is to take."""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # folder, limit and use of the container this process runs in: version 2, version 1
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_GIVEN_BACK = "inactive_file"  # in memory.stat: files kept in memory only until somebody else wants it


def available_memory() -> int:
    """Bytes that may still be taken without swapping: of the machine, and of the container."""
    return min([_of_machine(), *_of_container()])


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
