"""Images with one label each: folders named after classes, or Darknet's lists of paths that contain the label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.formats.dataset import Dataset, Split
from data.formats.dataset_files import images_in, read_labelled_list
from data.formats.yolo_txt import UNREADABLE
from utils.errors import DatasetError, ImageError
from utils.image import image_size, printable
from utils.names import check_names
from utils.structures import ImageRecord

_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}
_NAMED = 5  # so many classes are named in messages


def load_labelled(path: str | Path, split: Split, *, names: Sequence[str] | None = None) -> Dataset:
    """Read the images of a classifier. An image's label is that of its one box, which is all of it.

    * a folder with ``train/CLASS/`` and ``val/CLASS/`` (or ``valid``, ``validation``, ``test``), classes in
      alphabetical order of the folders of ``train``;
    * a Darknet ``.data`` file (``train``, ``valid``, ``labels``, ``names``), where an image's label is the one that
      occurs in its path.

    Args:
        names: class names in the order the network has them; class folders are mapped by name, lists are renamed.

    Raises:
        DatasetError: what is wrong, with the file.
    """
    path = Path(path)
    images: Sequence[Path]
    if path.is_dir():
        folder = _split_folder(path, split)
        names = tuple(names or _class_names(path, folder))
        images, labels = _in_class_folders(folder, names)
    elif path.suffix == ".data":
        listed, label_texts = read_labelled_list(path, split)
        names = tuple(names or listed.names)
        check_names(names, len(label_texts), source=printable(path))
        images, labels, folder = listed.images, _labels_in_paths(listed.images, label_texts, path), path
    else:
        raise DatasetError(
            f"{printable(path)}: no folder and no .data file (wanted a folder with train/CLASS/ and val/CLASS/ in it)"
        )
    records = tuple(_record(number, *pair) for number, pair in enumerate(zip(images, labels, strict=True)))
    absent = [names[label] for label in sorted(set(range(len(names))) - set(labels))]
    notes = (f"no image of {len(absent)} classes: {_listed(absent)}",) if absent else ()
    return Dataset(records, names, tuple(range(1, len(names) + 1)), str(folder), split, notes)


def _split_folder(root: Path, split: Split) -> Path:
    for name in _FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/CLASS/" for name in _FOLDERS[split])
    raise DatasetError(f"{printable(root)}: no images for {split} in it (wanted {wanted})")


def _class_names(root: Path, folder: Path) -> tuple[str, ...]:
    """The folders of the training images; of ``folder`` where there are none."""
    train = root / _FOLDERS["train"][0]
    source = train if train.is_dir() else folder
    names = tuple(sorted(entry.name for entry in source.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not names:
        raise DatasetError(f"{printable(source)}: no folders in it (wanted one for each class)")
    return names


def _in_class_folders(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    """The images of each class and their labels, in the order of the names."""
    own = {entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."}
    unknown = sorted(own - set(names))
    if unknown:
        raise DatasetError(
            f"{printable(folder)}: {_listed(unknown)} are none of the {len(names)} classes ({_listed(names)}); "
            "rename or remove these folders"
        )
    images: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = images_in(folder / name) if name in own else ()
        images += found
        labels += [label] * len(found)
    if not images:
        raise DatasetError(f"{printable(folder)}: no images in its class folders")
    return images, labels


def _labels_in_paths(images: Sequence[Path], labels: Sequence[str], source: Path) -> list[int]:
    """The label of each image, looked for in its path below the folder of ``source``."""
    by_length: dict[int, dict[str, int]] = defaultdict(dict)
    for number, label in enumerate(labels):
        by_length[len(label)][label] = number
    found: list[int] = []
    for image in images:
        text = printable(image.relative_to(source.parent) if image.is_relative_to(source.parent) else image)
        matches = _matches(text, by_length)
        if len(matches) != 1:
            came = " and ".join(labels[match] for match in sorted(matches)[:_NAMED]) or "no label"
            raise DatasetError(f"{printable(source)}: the path {text} holds {came} (wanted exactly one label in it)")
        found += matches
    return found


def _matches(text: str, by_length: dict[int, dict[str, int]]) -> set[int]:
    """Which labels occur in ``text``; one that is only part of a longer one, as car of cart, does not count."""
    matches = set()
    for length in sorted(by_length, reverse=True):
        for start in range(len(text) - length + 1):
            label = by_length[length].get(text[start : start + length])
            if label is not None:
                matches.add(label)
                text = text[:start] + "\0" * length + text[start + length :]
    return matches


def _record(number: int, path: Path, label: int) -> ImageRecord:
    try:
        size = image_size(path)
    except ImageError:
        size = UNREADABLE
    box = np.array([[0, 0, size[1], size[0]]], np.float32)
    return ImageRecord(number, path, size, box, np.array([label]), np.zeros(1, bool))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
