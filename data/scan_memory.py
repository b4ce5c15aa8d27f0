"""What earlier scans found out about image files, so that a second start is instant."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.atomic import atomic_write
from utils.errors import EnvironmentFault
from utils.structures import Size

_SCHEMA = 1
_NAME = ".yolov4_scan.json"

# Length and modification time of a file, and its (H, W) or why it does not decode.
_Finding = tuple[int, int, Size | str]


class ScanMemory:
    """What earlier scans found: a json file beside the annotations, or where that is read-only in the user's cache."""

    def __init__(self, source: Path) -> None:
        """Read what is remembered about the data set whose annotations are ``source``."""
        folder = source.resolve().parent
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolov4"
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self._places = (folder / _NAME, cache / f"scan-{name}.json")
        self._findings: dict[str, _Finding] = {}
        for place in reversed(self._places):  # the one beside the annotations has the last word
            self._findings |= _read_findings(place)

    def known(self, paths: Iterable[Path]) -> dict[Path, Size | str]:
        """The outcome of each image that has not changed since."""
        known = {}
        for path in set(paths):
            finding = self._findings.get(_key(path))
            if finding and _stamp(path) == finding[:2]:
                known[path] = finding[2]
        return known

    def add(self, outcomes: dict[Path, Size | str]) -> None:
        """Remember outcomes. Where nothing can be written, the next scan decodes again."""
        for path, outcome in outcomes.items():
            stamp = _stamp(path)
            if stamp:
                self._findings[_key(path)] = (*stamp, outcome)
        content = json.dumps({"schema": _SCHEMA, "files": self._findings})
        for place in self._places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(place, binary=False) as file:
                    file.write(content)
                return
            except (OSError, EnvironmentFault):
                continue


def _read_findings(place: Path) -> dict[str, _Finding]:
    """The findings in a file; none if it is missing, damaged or of another version."""
    try:
        content = json.loads(place.read_bytes())
        if content["schema"] != _SCHEMA:
            return {}
        return {key: _finding(value) for key, value in content["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _finding(value: Any) -> _Finding:
    length, modified, outcome = value
    if isinstance(outcome, list):
        height, width = outcome
        outcome = (int(height), int(width))
    elif not isinstance(outcome, str):
        raise TypeError(f"{outcome!r} is neither a size nor a reason")
    return int(length), int(modified), outcome


def _key(path: Path) -> str:
    return os.fspath(path.absolute())


def _stamp(path: Path) -> tuple[int, int] | None:
    """Length and modification time (ns)."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns
