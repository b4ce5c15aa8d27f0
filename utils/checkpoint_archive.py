"""The zip archive that a checkpoint is, looked at without torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

from utils.errors import WeightsError


def check_archive(path: Path, *, contents: bool = True) -> None:
    """Refuse what is no whole archive.

    Args:
        contents: read every byte, too, and compare checksums.

    Raises:
        WeightsError: the file is missing, is no checkpoint, is damaged or forged.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint (wanted a .pt file written by train.py)")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise WeightsError(f"{path}: entries larger than the file (a compressed or forged archive); refused")
            if len({entry.filename for entry in entries}) != len(entries):
                raise WeightsError(f"{path}: two entries of the same name; refused")
            broken = archive.testzip() if contents else None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not a checkpoint, or cut short ({error}); take an older one") from None
    if broken:
        raise WeightsError(f"{path}: CRC mismatch in {broken}, the file is damaged; take an older one")
