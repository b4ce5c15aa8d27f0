"""Downloads from a server on this machine: interrupted, resumed, wrong, refused."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.get_coco import download as download_module
from data.get_coco.download import Remote, download
from tests.local_server import Site, serve
from utils.errors import EnvironmentFault, InputError
from utils.keyed_random import keyed_rng

CONTENT = keyed_rng(0).bytes(300_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site({"/zips/a.zip": CONTENT})) as running:
        yield running


def remote(site: Site, *, size: int = len(CONTENT), sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> Remote:
    return Remote(f"{site.address}/zips/a.zip", size, sha256)


def fetch(site: Site, folder: Path, **changes) -> Path:
    return download(remote(site), folder, **{"progress": False, "pause": 0.0} | changes)


def test_a_file_arrives_and_is_not_fetched_twice(site: Site, tmp_path: Path) -> None:
    path = fetch(site, tmp_path / "new")
    assert path == tmp_path / "new" / "a.zip"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    fetch(site, tmp_path / "new")
    assert site.requests == [None]


def test_a_broken_connection_is_resumed_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.drop_after = [100_000, 50_000]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_goes_on(site: Site, tmp_path: Path) -> None:
    site.drop_after = [200_000, 0]
    with pytest.raises(EnvironmentFault, match=r"a\.zip: .*200,000 of 300,000 bytes are here.*run again to go on"):
        fetch(site, tmp_path, patience=1)
    assert (tmp_path / "a.zip.part").stat().st_size == 200_000
    assert not (tmp_path / "a.zip").exists()
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.requests[-1] == "bytes=200000-"


def test_a_complete_part_is_only_checked(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    assert site.requests == []


@pytest.mark.parametrize("size", [0, 1000, 300_001])
def test_a_part_of_any_length(site: Site, tmp_path: Path, size: int) -> None:
    (tmp_path / "a.zip.part").write_bytes((CONTENT + b"!")[:size])
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)  # would stay in front if it were appended to
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_that_breaks_off_ends(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.drop_after = [1000] * 50
    with pytest.raises(EnvironmentFault, match="ended early|broke"):
        fetch(site, tmp_path, patience=3)
    assert len(site.requests) == 4


def test_a_wrong_size_is_another_file(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"offers 300,000 bytes \(wanted 299,999\)"):
        download(remote(site, size=len(CONTENT) - 1), tmp_path, progress=False)
    assert not (tmp_path / "a.zip").exists()


def test_a_wrong_sum_is_deleted(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SHA-256 of what arrived is [0-9a-f]{64} \(wanted 0000"):
        download(remote(site, sha256="0" * 64), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_found_by_the_sum(site: Site, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(b"\0" * 1000)
    with pytest.raises(InputError, match="SHA-256"):
        fetch(site, tmp_path)
    assert fetch(site, tmp_path).read_bytes() == CONTENT


def test_not_there(site: Site, tmp_path: Path) -> None:
    del site.files["/zips/a.zip"]
    with pytest.raises(EnvironmentFault, match="answers 404 Not Found"):
        fetch(site, tmp_path)
    assert len(site.requests) == 1


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.statuses = [503, 503]
    assert fetch(site, tmp_path).read_bytes() == CONTENT
    site.statuses = [503] * 9
    (tmp_path / "a.zip").unlink()
    with pytest.raises(EnvironmentFault, match="answers 503"):
        fetch(site, tmp_path, patience=3)


def test_no_server(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = Remote("http://127.0.0.1:9/a.zip", 5, "0" * 64)
    with pytest.raises(EnvironmentFault, match="no connection"):
        download(gone, tmp_path, pause=0.001, patience=2)
    assert "trying again" in capsys.readouterr().err


def test_a_range_that_starts_elsewhere_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        headers = {"Content-Range": "bytes 0-9/300000"}  # noqa: RUF012

    with pytest.raises(EnvironmentFault, match=r"'bytes 0-9/300000' \(wanted from byte 1000\)"):
        download_module._check_length(remote(site), Elsewhere(), 1000)


def test_too_little_room_is_said_before_anything_is_fetched(site: Site, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"GB more are needed, .* GB are free; free some space"):
        fetch(site, tmp_path, reserve=shutil.disk_usage(tmp_path).free + 10**12)
    assert site.requests == []


def test_a_disk_that_fills_keeps_the_part(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            self.file.write(data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def opened(self: Path, mode: str = "r"):
        return Full(real(self, mode)) if mode in ("wb", "ab") else real(self, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(EnvironmentFault, match=r"a\.zip\.part: No space left on device; .* run again"):
            fetch(site, tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == 1000
    assert fetch(site, tmp_path).read_bytes() == CONTENT
