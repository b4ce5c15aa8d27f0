"""The folder of the sample data set: drawn once, complete or absent, known again by its recipe."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data.sample.objects import CLASSES
from data.sample.picture import VERSION, draw_picture
from data.sample.pool import in_order
from utils.atomic import disk_fault
from utils.errors import EnvironmentFault, UsageError
from utils.structures import Size

NAMES = tuple(CLASSES)
_RECIPE = "sample.json"


def ensure_sample(root: Path = Path("datasets")) -> Path:
    """The folder of the sample data set below ``root``, drawn now if it is not there, or is of another version."""
    folder = Path(root) / "sample"
    return folder if is_sample(folder) else make_sample(folder)


def is_sample(folder: Path, *, train: int = 300, val: int = 60, size: Size = (320, 416), seed: int = 0) -> bool:
    """Whether ``folder`` holds exactly what ``make_sample`` with the same arguments would draw."""
    return _read_recipe(folder) == _recipe(train, val, size, seed)


def make_sample(
    folder: Path,
    *,
    train: int = 300,
    val: int = 60,
    size: Size = (320, 416),
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw the sample data set into ``folder``, which appears when it is complete.

    Args:
        folder: new, empty, or an older sample, which is replaced.
        train, val: images of each split.
        size: (H, W) of the images.
        workers: processes; None is one for each core, at most eight.
        progress: show a bar on stderr.

    Returns:
        ``folder``, holding instances_train.json, instances_val.json, train/, val/ and sample.json (the recipe).

    Raises:
        UsageError: ``folder`` holds something else.
        EnvironmentFault: the disk refuses.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _draw_into(draft, {"train": train, "val": val}, size, seed, workers, progress)
            (draft / _RECIPE).write_text(json.dumps(_recipe(train, val, size, seed)) + "\n", encoding="utf-8")
            _put_in_place(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if disk_fault(error) is None:
            raise
        raise EnvironmentFault(f"{folder}: cannot draw the sample: {error.strerror}; free some space") from error
    return folder


def _draw_into(draft: Path, counts: dict[str, int], size: Size, seed: int, workers: int | None, progress: bool) -> None:
    keys = [(number, index) for number, count in enumerate(counts.values()) for index in range(count)]
    drawn = in_order(partial(draw_picture, size, seed), keys, workers, "drawing the sample" if progress else None)
    for split, count in counts.items():
        _write_split(draft, split, size, islice(drawn, count))
    drawn.close()


def _write_split(draft: Path, split: str, size: Size, drawn: Iterable[tuple[bytes, list[dict[str, Any]]]]) -> None:
    (draft / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (jpeg, objects) in enumerate(drawn, start=1):
        name = f"{split}_{image_id:04d}.jpg"
        (draft / split / name).write_bytes(jpeg)
        images.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        for annotation in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id} | annotation)
    text = json.dumps(_coco(images, annotations))
    (draft / f"instances_{split}.json").write_text(text + "\n", encoding="utf-8")


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"description": "built-in sample, drawn by data/sample", "version": str(VERSION)},
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)],
        "images": images,
        "annotations": annotations,
    }


def _recipe(train: int, val: int, size: Size, seed: int) -> dict[str, Any]:
    return {"version": VERSION, "seed": seed, "train": train, "val": val, "size": list(size)}


def _read_recipe(folder: Path) -> Any:
    """What ``folder`` was drawn from, None where that cannot be told."""
    try:
        return json.loads((folder / _RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file (wanted a folder for the sample); choose another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _RECIPE).is_file():
        raise UsageError(
            f"{folder}: holds files but no {_RECIPE} (wanted a new folder or an old sample); choose another"
        )


def _put_in_place(draft: Path, folder: Path) -> None:
    """Give the finished ``draft`` its name; what had the name before goes."""
    draft.chmod(0o755)  # mkdtemp's folders are for their owner alone
    old = draft.with_name(f"{draft.name}-old")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        if _read_recipe(folder) != _read_recipe(draft):
            raise  # else another process drew the same and was quicker
    shutil.rmtree(old, ignore_errors=True)
