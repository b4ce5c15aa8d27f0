"""Files that describe a data set of label texts: Darknet's ``.data`` and the Ultralytics-style ``.yaml``.

Paths in them are meant from the file that holds them. Where nothing is there, the current folder is tried, which is
what Darknet does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.errors import DatasetError
from utils.image import IMAGE_SUFFIXES, printable
from utils.names import read_names

_LARGEST = 256 << 20  # bytes of a list file; ten million paths


@dataclass(frozen=True)
class ImageList:
    """The class names of a data set and the images of one split, in order."""

    names: tuple[str, ...]
    images: tuple[Path, ...]


def read_data_file(path: Path, split: str) -> ImageList:
    """Read a Darknet ``.data`` file: ``train``, ``valid`` (default: the training images), ``names``, ``classes``.

    Raises:
        DatasetError, InputError: a file that is missing or broken, with its line.
    """
    where, options = printable(path), _options(path)
    listed: Any = options.get("train") if split == "train" else options.get("valid", options.get("train"))
    for key, value in (("train", listed), ("names", options.get("names"))):
        if not value:
            raise DatasetError(f"{where}: no {key!r} (wanted train, valid, names and classes)")
    classes = _whole(options["classes"], "classes", where) if "classes" in options else None
    names = read_names(_find(options["names"], (path.parent,)) or options["names"])  # it knows those of cfg/
    if classes is not None:
        _check_count(names, "classes", classes, where)
    return ImageList(names, _images_of(listed, (path.parent,), where))


def read_labelled_list(path: Path, split: str) -> tuple[ImageList, tuple[str, ...]]:
    """Read a Darknet ``.data`` file of a classifier: ``train``, ``valid``, ``labels``, and ``names`` where they differ.

    Returns:
        Names and images, and the labels, one for each class, to look for in the paths of the images.

    Raises:
        DatasetError, InputError: a file that is missing or broken, with its line.
    """
    where, options = printable(path), _options(path)
    if "labels" not in options:
        raise DatasetError(f"{where}: no 'labels' (wanted train, valid and labels, and names where they differ)")
    classes = _whole(options["classes"], "classes", where) if "classes" in options else None
    files = {key: _find(options[key], (path.parent,)) or options[key] for key in ("labels", "names") if key in options}
    labels = read_names(files["labels"], classes=classes)
    names = read_names(files["names"], classes=len(labels)) if "names" in files else labels
    listed = options.get("train") if split == "train" else options.get("valid", options.get("train"))
    if not listed:
        raise DatasetError(f"{where}: no 'train' (wanted train, valid and labels)")
    return ImageList(names, _images_of(listed, (path.parent,), where)), labels


def images_in(folder: Path) -> tuple[Path, ...]:
    """The image files below a folder, sorted."""
    return tuple(sorted(_walk(folder, set())))


def read_yaml(path: Path, split: str) -> ImageList:
    """Read an Ultralytics-style yaml: ``path`` (the root), ``train`` and ``val``, ``names`` and perhaps ``nc``.

    A split is a folder of images, a list file, or several of them. ``../`` at the start of a split may be too much,
    as in the exports of Roboflow.

    Raises:
        DatasetError, InputError: a file that is missing or broken.
    """
    where, options = printable(path), _yaml_options(path)
    given = options.get(split)
    splits: list[Any] = given if isinstance(given, list) else [given]
    if not splits or not all(isinstance(one, str) and one for one in splits):
        raise DatasetError(f"{where}: {split}={given!r} (wanted a folder, a list file, or a list of them)")
    root = options.get("path") or "."
    if not isinstance(root, str):
        raise DatasetError(f"{where}: path={root!r} (wanted the root folder of the images)")
    roots = (_find(root, (path.parent,)) or path.parent / root, path.parent)
    images = [image for one in splits for image in _images_of(one, roots, where)]
    return ImageList(_yaml_names(options, where), tuple(images))


def _images_of(text: str, roots: Sequence[Path], where: str) -> tuple[Path, ...]:
    """The images of a folder, sorted, or of a list file, in its order."""
    found = _find(text, roots) or _find(text.removeprefix("../"), roots)
    if found is None:
        places = ", ".join(dict.fromkeys(printable(root / text) for root in (*roots, Path.cwd())))
        raise DatasetError(f"{where}: {text!r}: no such folder or list file; looked for {places}")
    if found.is_dir():
        images = images_in(found)
    elif found.suffix.lower() in IMAGE_SUFFIXES:
        images = (found,)
    else:
        images = _listed_images(found, roots)
    if not images:
        raise DatasetError(f"{printable(found)}: no images in it (wanted {', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def _listed_images(path: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    """One path a line, with only the line end removed. An image that is missing is left for the scan to report."""
    lines = [line for line in _text(path, _LARGEST, errors="surrogateescape").split("\n") if line.strip()]
    texts = [line.removesuffix("\r") for line in lines]
    if any("\0" in text for text in texts):
        raise DatasetError(f"{printable(path)}: holds NUL bytes (wanted one image path a line)")
    found = [_find(text, (path.parent, *roots)) for text in texts]
    if texts and not any(found):
        places = " and ".join(dict.fromkeys(printable(root / texts[0]) for root in (path.parent, Path.cwd())))
        raise DatasetError(f"{printable(path)}:1: none of its {len(texts)} images is there; looked for {places}")
    return tuple(image or path.parent / text for image, text in zip(found, texts, strict=True))


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    """Regular image files below ``folder``; a folder that links lead to twice is read once."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir():
                    yield from _walk(Path(entry.path), visited)
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and stat.S_ISREG(entry.stat().st_mode):
                    yield Path(entry.path)
            except OSError as error:  # a link to nothing, a folder without permission
                raise DatasetError(f"{printable(entry.path)}: cannot be read: {error.strerror}; remove it") from None


def _find(text: str, roots: Sequence[Path]) -> Path | None:
    """``text`` below the first root where it exists, or below the current folder."""
    for root in (*roots, Path()):
        candidate = root / text
        if os.path.lexists(candidate):
            return candidate
    return None


def _options(path: Path) -> dict[str, str]:
    """key=value lines; of a key given twice the first counts, as in Darknet."""
    options: dict[str, str] = {}
    for number, line in enumerate(_text(path, 1 << 20).splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise DatasetError(f"{printable(path)}:{number}: {line[:80]!r} (wanted key=value)")
        options.setdefault(key.strip(), value.strip())
    return options


def _yaml_options(path: Path) -> dict[str, Any]:
    try:
        options = yaml.safe_load(_text(path, 1 << 20))
    except yaml.YAMLError as error:
        raise DatasetError(f"{printable(path)}: not yaml: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise DatasetError(f"{printable(path)}: a yaml {type(options).__name__} (wanted train, val and names)")
    return options


def _yaml_names(options: dict[str, Any], where: str) -> tuple[str, ...]:
    names = options.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DatasetError(f"{where}: names has the keys {list(names)[:5]}... (wanted 0 to {len(names) - 1})")
        names = [names[label] for label in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise DatasetError(f"{where}: names={str(names)[:80]} (wanted a list of class names, as names: [cat, dog])")
    names = [str(name) for name in names]
    if "nc" in options:
        _check_count(names, "nc", _whole(options["nc"], "nc", where), where)
    return tuple(names)


def _check_count(names: Sequence[str], key: str, count: int, where: str) -> None:
    if len(names) != count:
        raise DatasetError(f"{where}: {key}={count} beside {len(names)} names (wanted as many); mend one of them")


def _whole(value: Any, key: str, where: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise DatasetError(f"{where}: {key}={value!r} (wanted a whole number)") from None


def _text(path: Path, largest: int, errors: str = "strict") -> str:
    try:
        if path.stat().st_size > largest:
            raise DatasetError(f"{printable(path)}: {path.stat().st_size:,} bytes (at most {largest:,})")
        return path.read_bytes().decode("utf-8-sig", errors)
    except OSError as error:
        raise DatasetError(f"{printable(path)}: cannot be read: {error.strerror}; check the path") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{printable(path)}: not UTF-8 text ({error.reason} at byte {error.start})") from None
