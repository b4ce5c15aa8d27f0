"""utils.atomic: the old file or the new one, never half of either."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from utils.atomic import atomic_write, disk_fault
from utils.errors import EnvironmentFault


def test_writes_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt", binary=False) as file:
        file.write("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_fault_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"half of the new")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_file_is_synced_before_it_is_renamed_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        calls.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "fsync file")
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert calls == ["fsync file", "rename", "fsync folder"]


def test_full_disk_is_one_line_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    message = r"a\.bin: cannot write: No space left on device .*file there before is untouched; free some space"
    with pytest.raises(EnvironmentFault, match=message), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"


def test_disk_fault_is_found_behind_other_errors() -> None:
    full = OSError(errno.ENOSPC, "full")
    try:
        try:
            raise full
        except OSError:
            raise RuntimeError("unexpected pos 576 vs 534")  # noqa: B904, as torch.save does
    except RuntimeError as error:
        assert disk_fault(error) is full
    assert disk_fault(RuntimeError("a bug")) is None
    assert disk_fault(FileNotFoundError(errno.ENOENT, "gone")) is None
