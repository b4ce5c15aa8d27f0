"""Class names: .names files, one name a line, line n naming class n."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.errors import InputError

_FOLDER = Path(__file__).resolve().parent.parent / "cfg"
_LARGEST = 1 << 20  # bytes; the 9,418 names of yolo9000 take 120 kB


def read_names(path: str | Path, *, classes: int | None = None) -> tuple[str, ...]:
    """Read a .names file: a path, or a name looked up in cfg/ (``coco`` or ``coco.names``).

    Line ends may be Unix's or Windows', a byte order mark and blank lines at the end are dropped. A blank line
    before the end is refused, because dropping it would give every later class the wrong name.

    Args:
        classes: the number of classes of the network; any other number of names is an error.

    Raises:
        InputError: missing or unreadable file, a bad line (with its number), or a wrong number of names.
    """
    found = _find(path)
    lines = [line.strip() for line in _text(found).rstrip().splitlines()]
    for number, line in enumerate(lines, start=1):
        if not line:
            raise InputError(f"{found}:{number}: blank line between names; remove it, or name class {number - 1}")
        if not line.isprintable():
            raise InputError(f"{found}:{number}: {line[:40]!r} holds control characters (wanted one name a line)")
    if not lines:
        raise InputError(f"{found}: no names in it (wanted one a line)")
    check_names(lines, classes, source=str(found))
    return tuple(lines)


def check_names(names: Sequence[str], classes: int | None, *, source: str) -> None:
    """Raise InputError unless there are as many ``names`` as ``classes`` (None: any number is right)."""
    if classes is not None and len(names) != classes:
        raise InputError(
            f"{source}: {len(names)} names (wanted {classes}, as the network has classes); give its --names"
        )


def default_names(classes: int) -> tuple[str, ...]:
    """Names for a network that came without: COCO's for 80 classes, as Darknet assumes, else the class numbers."""
    if classes == 80 and (_FOLDER / "coco.names").is_file():
        return read_names("coco", classes=80)
    return tuple(f"class {label}" for label in range(classes))


def _find(path: str | Path) -> Path:
    for candidate in (Path(path), _FOLDER / path, _FOLDER / f"{path}.names"):
        if candidate.is_file():
            return candidate
    raise InputError(f"{path}: no such names file (wanted a path, or a name from {_FOLDER.name}/)")


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes; that is no names file (wanted one name a line)")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
