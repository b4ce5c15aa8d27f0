"""utils.atomic: the old file or the new one, never half of either."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from utils.atomic import atomic_write, disk_fault, remove_temporaries
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


@pytest.mark.parametrize("moment", ["half written", "fsync", "second fsync", "before replace", "after replace"])
def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    child = os.fork()
    if child == 0:
        _die_at(moment)
        with atomic_write(path) as file:
            file.write(b"new")
            file.flush()
            if moment == "half written":
                os._exit(9)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert path.read_bytes() == (b"new" if moment in ("second fsync", "after replace") else b"old")
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["last.pt"]


def _die_at(moment: str) -> None:
    """Let this process end as if killed when it comes to ``moment``."""
    real_sync, real_replace, syncs = os.fsync, Path.replace, []

    def sync(descriptor: int) -> None:
        syncs.append(descriptor)
        if moment == ("fsync", "second fsync")[len(syncs) - 1]:
            os._exit(9)
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        if moment == "before replace":
            os._exit(9)
        real_replace(self, target)
        if moment == "after replace":
            os._exit(9)
        return target

    os.fsync, Path.replace = sync, replace


def test_only_temporaries_are_removed(tmp_path: Path) -> None:
    for name in ("last.pt", "last.pt.77.tmp", "best.weights.78.tmp", "tmp", "a.tmp.txt"):
        (tmp_path / name).write_bytes(b"")
    remove_temporaries(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.tmp.txt", "last.pt", "tmp"]


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
