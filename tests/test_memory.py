"""utils.memory: the machine's memory and the container's, whichever is less."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from utils import memory


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 3000 KiB to take and no container."""
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", ((tmp_path, "limit", "used"),))
    return tmp_path


def test_here() -> None:
    assert 2**20 < memory.available_memory() < 2**50


def test_the_machine(files: Path) -> None:
    assert memory.available_memory() == 3000 * 1024
    (files / "limit").write_text("max\n")
    (files / "used").write_text("5\n")
    assert memory.available_memory() == 3000 * 1024


@pytest.mark.parametrize(("limit", "left"), [(10_000, 9_000), (900, 0), (2**60, 3000 * 1024)])
def test_the_container(files: Path, limit: int, left: int) -> None:
    (files / "limit").write_text(f"{limit}\n")
    (files / "used").write_text("3000\n")
    (files / "memory.stat").write_text("active_file 700\ninactive_file 2000\n")
    assert memory.available_memory() == left


def test_without_meminfo(files: Path) -> None:
    (files / "meminfo").unlink()
    assert memory.available_memory() > 0


FAULTS_OF_COPIES = """
import resource
from utils import memory
{}
for _ in range(30):
    if _ == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(2**26)  # more than glibc ever keeps by itself
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's malloc alone has the option")
def test_freed_memory_is_used_again() -> None:
    def faults(preparation: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_COPIES.format(preparation)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    pages = 20 * 2**26 // 4096
    assert faults("pass") > 0.5 * pages or faults("pass") > 500  # huge pages are fewer
    assert faults("memory.keep_freed_memory()") < 100


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in (object(), None):  # one without the option, and a system where asking is refused
        monkeypatch.setattr(memory.ctypes, "CDLL", (lambda _, found=library: found) if library else refuse)
        memory.keep_freed_memory()


def refuse(_: None) -> None:
    raise TypeError("an integer is required")
