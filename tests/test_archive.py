"""Unpacking: all or nothing, and nothing outside."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from data.get_coco import archive as archive_module
from data.get_coco.archive import extract
from utils.errors import EnvironmentFault, InputError


def zipped(path: Path, members: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def unpack(path: Path, target: Path, **changes) -> None:
    extract(path, "val2017", target, **{"progress": False} | changes)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_only_the_folder_wanted(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip", {"val2017/": "", "val2017/1.jpg": b"one", "val2017/2.jpg": b"two", "x/3.jpg": b""}
    )
    unpack(path, tmp_path / "out" / "val2017")
    assert listing(tmp_path / "out") == ["val2017", "val2017/1.jpg", "val2017/2.jpg"]
    assert (tmp_path / "out/val2017/2.jpg").read_bytes() == b"two"
    unpack(path, tmp_path / "named", names=("2.jpg",))
    assert listing(tmp_path / "named") == ["2.jpg"]


def test_into_a_folder_that_exists_files_are_replaced(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"val2017/1.jpg": b"new"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.jpg").write_bytes(b"half")
    (tmp_path / "out" / "mine.txt").touch()
    unpack(path, tmp_path / "out")
    assert listing(tmp_path / "out") == ["1.jpg", "mine.txt"]
    assert (tmp_path / "out" / "1.jpg").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "val2017/../../evil.jpg", "C:/evil.jpg", "..\\evil.jpg"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "a.zip", {"val2017/1.jpg": b"", name: b"x"})
    with pytest.raises(InputError, match="leads outside the folder; nothing was unpacked"):
        unpack(path, tmp_path / "out" / "val2017")
    assert listing(tmp_path) == ["a.zip", "out"]


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("val2017/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/hostname")
    with pytest.raises(InputError, match="leads outside"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_damage_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"val2017/1.jpg": b"good", "val2017/2.jpg": b"pixels of the second image"})
    data = bytearray(path.read_bytes())
    data[data.index(b"pixels")] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged or no zip file"):
        unpack(path, tmp_path / "out")
    path.write_bytes(b"<html>no zip</html>")
    with pytest.raises(InputError, match="damaged or no zip file"):
        unpack(path, tmp_path / "out")
    assert listing(tmp_path) == ["a.zip"]


def test_another_archive_is_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"train2017/1.jpg": b""})
    with pytest.raises(InputError, match="no file in val2017/; is it the right archive"):
        unpack(path, tmp_path / "out")
    with pytest.raises(InputError, match=r"no 7\.json, 8\.json in val2017/"):
        unpack(path, tmp_path / "out", names=("7.json", "8.json"))


def test_disk_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", {"val2017/1.jpg": b"x" * 5000})
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault, match="cannot unpack: .*; mend that, run again"):
        unpack(path, tmp_path / "file" / "out")

    class Usage:
        free = 4999

    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(EnvironmentFault, match=r"unpacking needs 0\.0 GB, 0\.0 GB are free; free some space"):
        unpack(path, tmp_path / "out")
    assert listing(tmp_path) == ["a.zip", "file"]
