"""Detections as ``darknet detector valid`` writes them for VOC: one text file a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.box_table import check_unique
from utils.atomic import atomic_write
from utils.run_folder import file_name
from utils.structures import Detections, ImageRecord


def save_voc_results(
    folder: Path, records: Sequence[ImageRecord], detections: Mapping[int, Detections], names: Sequence[str]
) -> list[Path]:
    """Write ``comp4_det_test_<class>.txt`` for every class: ``image score left top right bottom`` a line.

    An image goes by its file's name without suffix. Boxes are in VOC's pixels: the first one is 1, and they end at
    the border of the image.

    Raises:
        InputError: two images or two classes go by the same name.
        EnvironmentFault: the disk refuses.
    """
    check_unique([record.path.stem for record in records], str(folder), "image name")
    paths = [folder / f"comp4_det_test_{file_name(name)}.txt" for name in names]
    check_unique(paths, str(folder), "file name")
    lines: list[list[str]] = [[] for _ in names]
    for record in records:
        height, width = record.size
        found = detections[record.image_id]
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
            left, top = (max(edge + 1, 1.0) for edge in box[:2])
            right, bottom = min(box[2] + 1, width), min(box[3] + 1, height)
            lines[label].append(f"{record.path.stem} {score:f} {left:f} {top:f} {right:f} {bottom:f}\n")
    folder.mkdir(parents=True, exist_ok=True)
    for path, own in zip(paths, lines, strict=True):
        with atomic_write(path, binary=False) as file:
            file.writelines(own)
    return paths
