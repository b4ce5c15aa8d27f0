"""Unpacking zip files that came over a network: whole or not at all, and never outside their folder."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.errors import EnvironmentFault, InputError


def extract(archive: Path, inside: str, target: Path, *, names: Collection[str] = (), progress: bool = True) -> None:
    """Unpack the files of folder ``inside`` of a zip file into ``target``.

    They are unpacked and checked (CRC-32) beside ``target``, then moved there: a new ``target`` appears at once and
    complete, in one that exists each file is replaced whole.

    Args:
        names: the files wanted; empty: all.

    Raises:
        InputError: not a zip file, damaged, without the files wanted, or with names that lead elsewhere.
        EnvironmentFault: the disk refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            with zipfile.ZipFile(archive) as content:
                _unpack(content, _members(content, archive, inside, names), draft, progress)
            _move(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive}: damaged or no zip file ({error}); delete it and download it again") from error
    except OSError as error:
        if isinstance(error, EnvironmentFault):
            raise
        raise EnvironmentFault(f"{target}: cannot unpack: {error.strerror or error}; mend that, run again") from error


def _members(content: zipfile.ZipFile, archive: Path, inside: str, names: Collection[str]) -> list[zipfile.ZipInfo]:
    """The members wanted; all names are checked first, also of those that are not."""
    chosen = []
    for member in content.infolist():
        path = PurePosixPath(member.filename)
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename or is_link:
            raise InputError(f"{archive}: member {member.filename!r} leads outside the folder; nothing was unpacked")
        wanted = path.parent.as_posix() == inside and (not names or path.name in names)
        chosen += [member] if wanted and not member.is_dir() else []
    missing = set(names) - {PurePosixPath(member.filename).name for member in chosen}
    if missing or not chosen:
        raise InputError(f"{archive}: no {', '.join(sorted(missing)) or 'file'} in {inside}/; is it the right archive?")
    return chosen


def _unpack(content: zipfile.ZipFile, members: list[zipfile.ZipInfo], draft: Path, progress: bool) -> None:
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(draft).free
    if free < needed:
        raise EnvironmentFault(
            f"{draft.parent}: unpacking needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free some space"
        )
    with tqdm(total=needed, desc="unpacking", unit="B", unit_scale=True, disable=not progress, leave=False) as bar:
        for member in members:
            with content.open(member) as source, (draft / PurePosixPath(member.filename).name).open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            bar.update(member.file_size)


def _move(draft: Path, target: Path) -> None:
    """``draft`` becomes ``target``, or its files replace those there."""
    draft.chmod(0o755)  # mkdtemp's folders are for their owner alone
    if not target.exists():
        draft.rename(target)
        return
    for file in draft.iterdir():
        file.replace(target / file.name)
