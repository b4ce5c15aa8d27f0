"""Downloading large files: resumed where they stopped, checked before they get their name."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from utils.errors import EnvironmentFault, InputError

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Remote:
    """A file on a server.

    Attributes:
        url: its address; the last part is its name here.
        size: its bytes.
        sha256: of its content, in hexadecimal digits.
    """

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rsplit("/", 1)[-1]


class _DroppedError(Exception):
    """The connection ended early; what arrived is kept and the rest can be asked for."""


def download(
    remote: Remote, folder: Path, *, progress: bool = True, patience: int = 5, pause: float = 2.0, reserve: int = 0
) -> Path:
    """Fetch ``remote`` into ``folder``; a file already there is taken as it is.

    Bytes go into ``<name>.part``, where a later call goes on. The file gets its name once size and sum are right.

    Args:
        progress: show a bar with the time left on stderr.
        patience: attempts in a row that may bring nothing before giving up.
        pause: seconds before the second attempt, doubled for each one after it.
        reserve: bytes of disk that must be left over.

    Raises:
        EnvironmentFault: the server or the disk refuses, or the connection keeps breaking; the part is kept.
        InputError: the server has another file than the one wanted.
    """
    target = folder / remote.name
    if target.is_file() and target.stat().st_size == remote.size:
        return target
    part = folder / f"{remote.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, remote.size - _size_of(part) + reserve)
        _fetch(remote, part, progress, patience, pause)
        _check_sum(remote, part, progress)
        part.replace(target)
    except OSError as error:
        if isinstance(error, EnvironmentFault):
            raise
        raise EnvironmentFault(f"{part}: {error.strerror or error}; mend that and run again to go on") from error
    return target


def _fetch(remote: Remote, part: Path, progress: bool, patience: int, pause: float) -> None:
    """Ask for the missing bytes until all are there."""
    failures = 0
    while (before := _size_of(part)) != remote.size:
        try:
            _receive(remote, part, progress)
        except _DroppedError as dropped:
            failures = failures + 1 if _size_of(part) <= before else 0
            if failures >= patience:
                have = f"{_size_of(part):,} of {remote.size:,} bytes are here"
                raise EnvironmentFault(f"{remote.url}: {dropped} ({have}); run again to go on") from dropped
            wait = pause * 2 ** (failures - 1) if failures else 0
            if progress and wait:
                tqdm.write(f"{remote.name}: {dropped}; trying again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def _receive(remote: Remote, part: Path, progress: bool) -> None:
    """One request: append what arrives to ``part``."""
    offset = _size_of(part)
    if offset > remote.size:
        part.unlink()
        offset = 0
    with _open(remote, offset) as response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        _check_length(remote, response, offset if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                total=remote.size,
                initial=offset if resumed else 0,
                desc=remote.name,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            while data := _read(response):
                file.write(data)
                bar.update(len(data))
    if _size_of(part) < remote.size:
        raise _DroppedError("the connection ended early")


def _open(remote: Remote, offset: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _TRANSIENT:
            raise _DroppedError(f"the server answers {error.code} {error.reason}") from error
        raise EnvironmentFault(
            f"{remote.url}: the server answers {error.code} {error.reason}; "
            "try later, or another server with the same files (--address)"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _DroppedError(f"no connection: {getattr(error, 'reason', error)}") from error


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(f"the connection broke: {error}") from error


def _check_length(remote: Remote, response: http.client.HTTPResponse, offset: int) -> None:
    """The server must have the file we want, and send the part of it we asked for."""
    expected = remote.size - offset
    length = response.headers.get("Content-Length")
    if length is not None and int(length) != expected:
        raise InputError(
            f"{remote.url}: the server offers {int(length) + offset:,} bytes (wanted {remote.size:,}): another file; "
            "check --address"
        )
    span = response.headers.get("Content-Range")
    if span is not None and not span.startswith(f"bytes {offset}-"):
        raise EnvironmentFault(f"{remote.url}: the server sends {span!r} (wanted from byte {offset}); try another one")


def _check_sum(remote: Remote, part: Path, progress: bool) -> None:
    """Remove a complete ``part`` whose content is wrong."""
    digest = hashlib.sha256()
    with (
        part.open("rb") as file,
        tqdm(total=remote.size, desc="checking", unit="B", unit_scale=True, disable=not progress, leave=False) as bar,
    ):
        while data := file.read(_CHUNK):
            digest.update(data)
            bar.update(len(data))
    if digest.hexdigest() != remote.sha256:
        part.unlink()
        raise InputError(
            f"{remote.url}: SHA-256 of what arrived is {digest.hexdigest()} (wanted {remote.sha256}); "
            "it was deleted; download it again"
        )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EnvironmentFault(
            f"{folder}: {needed / 1e9:.1f} GB more are needed, {free / 1e9:.1f} GB are free; free some space"
        )


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
