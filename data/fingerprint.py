"""How a resumed training knows its images again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data.formats.dataset import Dataset
from utils.errors import InputError


def fingerprint(dataset: Dataset) -> str:
    """One short line that differs where file names, sizes, labels or boxes differ; the folder may move."""
    digest = hashlib.sha256()
    for record in dataset.records:
        digest.update(f"{record.path.name} {record.size} {record.labels.tolist()}".encode(errors="surrogateescape"))
        digest.update(record.boxes.tobytes())
    return f"{len(dataset):,} images ({digest.hexdigest()[:12]})"


def check_same_data(then: str | None, now: str, folder: Path) -> None:
    """Refuse to go on with the run in ``folder`` on other images, which would be another run.

    Args:
        then: the fingerprint of the images the run began with.
        now: that of the images ``--data`` names.

    Raises:
        InputError: they differ.
    """
    if then != now:
        raise InputError(
            f"{folder}/last.pt: trained on {then}, --data now gives {now}; "
            "bring the images and labels back, or start a new run with --weights"
        )
