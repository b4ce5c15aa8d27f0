"""utils.memory: the machine's memory and the container's, whichever is less."""

from __future__ import annotations

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
