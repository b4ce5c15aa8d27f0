"""A data set: records and class names, whichever of the three forms it is described in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.formats.coco import read_coco
from data.formats.dataset_files import read_data_file, read_yaml
from data.formats.yolo_txt import read_yolo_txt
from utils.errors import DatasetError
from utils.image import printable
from utils.names import check_names
from utils.structures import ImageRecord

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Dataset:
    """Annotated images, as the annotations give them (``data.scan`` checks and mends them).

    Attributes:
        records: the images in the order of the annotation file.
        names: the class names; a label indexes them.
        category_ids: the id each label has in COCO results files.
        source: the file the annotations came from.
        split: what the images are for.
        notes: what the user should know, one line each.
    """

    records: tuple[ImageRecord, ...]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    source: str
    split: Split = "train"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def spread(self, count: int) -> Dataset:
        """At most ``count`` of the images, evenly spread over all."""
        total = len(self)
        chosen = range(total) if total <= count else [place * total // count for place in range(count)]
        return replace(self, records=tuple(self.records[index] for index in chosen))


def load_dataset(
    path: str | Path,
    split: Split,
    *,
    names: Sequence[str] | None = None,
    missing_labels: Literal["background", "error"] = "background",
    allow_outside: bool = False,
) -> Dataset:
    """Read a data set in any of its forms; all give the same records.

    * a folder with ``instances_train.json`` and ``instances_val.json`` (or ``annotations/instances_train2017.json``)
      beside ``train/`` and ``val/``, ``images/``, or ``train2017/`` and ``val2017/``;
    * a COCO json itself, which is then both splits;
    * a Darknet ``.data`` file (``train``, ``valid``, ``names``, ``classes``);
    * an Ultralytics-style ``.yaml`` (``path``, ``train``, ``val``, ``names``).

    Args:
        names: class names in the order the network has them; a COCO file is mapped by name, the others are renamed.
        missing_labels: whether an image without a label file shows nothing or is an error.
        allow_outside: let a COCO ``file_name`` lead out of the image folder.

    Raises:
        DatasetError: what is wrong, with file and line or id.
    """
    path = Path(path)
    if path.is_dir():
        return _load_coco(_find_json(path, split), path, split, names, allow_outside)
    if not path.is_file():
        raise DatasetError(f"{printable(path)}: no such file or folder (wanted a .data, .yaml, .json or COCO folder)")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _load_coco(path, path.parent, split, names, allow_outside)
    if suffix in (".yaml", ".yml"):
        listed = read_yaml(path, split)
    elif suffix == ".data":
        listed = read_data_file(path, split)
    else:
        raise DatasetError(f"{printable(path)}: unknown kind {path.suffix!r} (wanted .data, .yaml, .json or a folder)")
    names = names or listed.names
    check_names(names, len(listed.names), source=printable(path))
    records, notes = read_yolo_txt(listed.images, len(names), missing_labels=missing_labels)
    category_ids = tuple(range(1, len(names) + 1))  # as COCO counts
    return Dataset(records, tuple(names), category_ids, str(path), split, notes)


def _load_coco(json_path: Path, root: Path, split: Split, names: Sequence[str] | None, allow_outside: bool) -> Dataset:
    folders = _image_folders(json_path, root, split)
    records, names, category_ids = read_coco(json_path, folders, names=names, allow_outside=allow_outside)
    return Dataset(records, names, category_ids, str(json_path), split)


def _find_json(root: Path, split: Split) -> Path:
    """The annotations of a split; of several (2014, 2017) the newest."""
    for folder in (root, root / "annotations"):
        found = [folder / f"instances_{split}.json", *sorted(folder.glob(f"instances_{split}*.json"), reverse=True)]
        for candidate in found:
            if candidate.is_file():
                return candidate
    others = sorted(file for file in root.iterdir() if file.suffix.lower() in (".data", ".yaml", ".yml"))
    hint = f"file: {', '.join(map(printable, others[:3]))}" if others else ".data or .yaml file"
    raise DatasetError(
        f"{printable(root)}: no instances_{split}.json in it, nor in annotations/ (wanted a COCO folder); "
        f"for another form give its {hint}"
    )


def _image_folders(json_path: Path, root: Path, split: Split) -> list[Path]:
    """Where the images of a COCO json may lie, the likeliest first."""
    own = json_path.stem.removeprefix("instances_")  # train, val2017 ...
    roots = [root, root.parent] if root.name == "annotations" else [root]
    return [base / name for base in roots for name in (own, split, f"images/{own}", f"images/{split}", "images", "")]
