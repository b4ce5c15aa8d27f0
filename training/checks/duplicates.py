"""Pictures that are in the training and in the validation images: the measure then rewards overfitting.

Files are compared by their bytes, and pictures by how the brightness of a thumbnail changes from cell to cell, which
survives another JPEG quality, another size and another exposure. Measured on 1,300,000 pairs of different photographs
and 18,000 of microscope images the likeness stays below 0.75; a copy at JPEG quality 30, at half the size or a quarter
brighter has 0.96 and more, one that lost a fiftieth of its width and height 0.85.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from training.checks.findings import Finding
from utils.errors import ImageError
from utils.image import decode_image, printable, read_bytes
from utils.structures import ImageRecord

ALIKE = 0.85  # likeness from which two pictures count as one
_CELLS = 16  # a side of the thumbnail whose changes are compared
_AT_ONCE = 1024  # validation pictures compared with all others at a time
_NAMED = 3  # so many are named in messages


class Picture(NamedTuple):
    """What is compared of an image file.

    Attributes:
        path: the file.
        digest: of its bytes.
        changes: float32 (512,), from cell to cell, of length 1; 0 for a picture of one colour.
    """

    path: Path
    digest: bytes
    changes: np.ndarray


class Twins(NamedTuple):
    """A validation image and the training image that shows the same."""

    val: Path
    train: Path
    same_bytes: bool


def pictures(records: Sequence[ImageRecord], *, workers: int = 2, progress: bool = False) -> list[Picture]:
    """Read the images of ``records`` that decode.

    Args:
        workers: threads.
        progress: show a bar, if standard error is a terminal.
    """
    with (
        ThreadPoolExecutor(max(1, workers)) as pool,
        tqdm(total=len(records), desc="comparing images", unit="image", disable=None if progress else True) as bar,
    ):
        found = []
        for picture in pool.map(_picture, [record.path for record in records]):
            bar.update()
            if picture is not None:
                found.append(picture)
    return found


def changes(image: np.ndarray) -> np.ndarray:
    """How the brightness of a picture changes to the right and downwards: float32 (512,), of length 1.

    Args:
        image: uint8 (H, W, 3) RGB.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_CELLS + 1, _CELLS + 1), interpolation=cv2.INTER_AREA).astype(np.float32)
    steps = np.concatenate([np.diff(small, axis=1)[:-1].ravel(), np.diff(small, axis=0)[:, :-1].ravel()])
    length = np.linalg.norm(steps)
    return steps / length if length else steps


def twins(train: Sequence[Picture], val: Sequence[Picture]) -> list[Twins]:
    """The validation pictures that are among the training pictures, each with the most alike of them."""
    if not train or not val:
        return []
    by_digest = {picture.digest: picture for picture in train}
    others = np.stack([picture.changes for picture in train])
    found = []
    for start in range(0, len(val), _AT_ONCE):
        some = val[start : start + _AT_ONCE]
        alike = np.stack([picture.changes for picture in some]) @ others.T  # (V, T)
        for picture, best, likeness in zip(some, alike.argmax(axis=1), alike.max(axis=1), strict=True):
            copy = by_digest.get(picture.digest)
            if copy is not None or likeness >= ALIKE:
                found.append(Twins(picture.path, (copy or train[best]).path, copy is not None))
    return found


def twin_findings(found: Sequence[Twins], images: int) -> Iterator[Finding]:
    """What is wrong with ``found`` of ``images`` validation images."""
    for same_bytes, kind in ((True, "are training images too"), (False, "look like a training image")):
        some = [pair for pair in found if pair.same_bytes == same_bytes]
        if some:
            yield Finding(
                "serious" if same_bytes else "warning",
                f"{len(some):,} of {images:,} validation images {kind}, so that the AP rewards overfitting: "
                f"{_listed([f'{_short(pair.val)} = {_short(pair.train)}' for pair in some])}",
                "take them out of the training or of the validation images"
                + ("" if same_bytes else "; frames of one film belong on one side"),
            )


def repeated(found: Sequence[Picture]) -> list[list[Path]]:
    """The files with the same bytes, group by group."""
    groups = defaultdict(list)
    for picture in found:
        groups[picture.digest].append(picture.path)
    return [group for group in groups.values() if len(group) > 1]


def repeat_findings(groups: Sequence[Sequence[Path]]) -> Iterator[Finding]:
    """What is wrong with training images that come more than once."""
    if groups:
        surplus = sum(len(group) - 1 for group in groups)
        yield Finding(
            "warning",
            f"copies of other training images: {surplus:,}, "
            + _listed([" = ".join(map(_short, group[:_NAMED])) for group in groups]),
            "remove the copies, or their labels where these differ: they count twice and may contradict each other",
        )


def same_files(train: Sequence[ImageRecord], val: Sequence[ImageRecord]) -> list[Twins]:
    """The validation images that are the very files of training images; no file is opened."""
    own = {record.path for record in train}
    return [Twins(record.path, record.path, True) for record in val if record.path in own]


def _picture(path: Path) -> Picture | None:
    try:
        content = read_bytes(path)
        return Picture(path, hashlib.sha256(content).digest(), changes(decode_image(content)))
    except ImageError:  # the scan has named it
        return None


def _short(path: Path) -> str:
    """The file and its folder, which says the split."""
    return printable(Path(*path.parts[-2:]))


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
