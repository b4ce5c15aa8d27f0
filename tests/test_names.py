from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import InputError
from utils.names import check_names, default_names, read_names


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "x.names"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [b"cat\ndog house\n", b"cat\ndog house", b"cat\r\ndog house\r\n\r\n", b"\xef\xbb\xbfcat\n  dog house \n\n\n \n"],
    ids=["plain", "no last line end", "windows", "mark and blanks"],
)
def test_reads_what_editors_write(tmp_path: Path, data: bytes) -> None:
    assert read_names(write(tmp_path, data), classes=2) == ("cat", "dog house")


def test_names_beyond_ascii(tmp_path: Path) -> None:
    assert read_names(write(tmp_path, "猫\nÖlkanne\n".encode())) == ("猫", "Ölkanne")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cat\n\ndog\n", r"x\.names:2: blank line"),
        (b"cat\n\x1b[31mdog\n", r"x\.names:2: .*control characters"),
        (b"\n \n", "no names in it"),
        (b"", "no names in it"),
        (b"caf\xe9\n", "not UTF-8 text"),
        (b"a\n" * 600_000, "no names file"),
    ],
)
def test_refuses_bad_files(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_names(write(tmp_path, data))


def test_refuses_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.names: no such names file"):
        read_names("nowhere.names")


def test_refuses_wrong_count(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 names \(wanted 80"):
        read_names(write(tmp_path, b"cat\ndog\n"), classes=80)
    with pytest.raises(InputError, match=r"best\.pt: 1 names \(wanted 2"):
        check_names(["cat"], 2, source="best.pt")
    check_names(["cat"], None, source="best.pt")


def test_default_names() -> None:
    assert default_names(3) == ("class 0", "class 1", "class 2")
    assert len(default_names(80)) == 80
    assert default_names(80)[:3] in (("person", "bicycle", "car"), ("class 0", "class 1", "class 2"))


@given(st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1), min_size=1))
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("names") / "y.names"
    path.write_text("\n".join(names) + "\n", encoding="utf-8")
    assert read_names(path, classes=len(names)) == tuple(names)
