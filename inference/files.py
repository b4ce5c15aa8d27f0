"""Detections as files: json, csv, YOLO labels, cut-out objects.

Each function here returns an ``Add``, called once for every frame.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from inference.frames import Frame
from utils.atomic import atomic_write
from utils.image import printable, write_image
from utils.run_folder import file_name
from utils.structures import Detections

Add = Callable[[Frame, Detections], None]
CSV_HEADER = ("source", "frame", "label", "name", "score", "x1", "y1", "x2", "y2")


class Stems:
    """Names for the files of a frame, without suffix: no two sources share one, frames of a video are numbered."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._taken: set[str] = set()

    def __call__(self, source: str) -> str:
        """The name for a source: that of its file, with _2, _3 ... where another folder had the same."""
        if source not in self._of:
            plain = file_name(Path(source).stem)
            name, number = plain, 1
            while name.lower() in self._taken:  # some file systems do not tell A from a
                number += 1
                name = f"{plain}_{number}"
            self._taken.add(name.lower())
            self._of[source] = name
        return self._of[source]

    def plain(self, frame: Frame) -> str:
        """The name for a frame that is all of its source."""
        return self(frame.source)

    def numbered(self, frame: Frame) -> str:
        """The name for one frame of a video."""
        return f"{self(frame.source)}_{frame.index:06d}"


@contextmanager
def json_report(path: Path, cfg: str, names: Sequence[str]) -> Iterator[Add]:
    """One json object with every frame, written as the frames come, so that a long video needs no memory.

    Boxes are xyxy in pixels of the frame and, as Darknet's, may reach beyond it. The file appears when it is
    complete. File names that are not UTF-8 survive: they are escaped as Python reads them back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, binary=False) as file:
        file.write(f'{{"cfg": {json.dumps(cfg)},\n"names": {json.dumps(list(names))},\n"frames": [')
        separator = "\n"

        def add(frame: Frame, detections: Detections) -> None:
            nonlocal separator
            height, width = frame.image.shape[:2]
            rows = [
                {"box": box, "label": label, "name": names[label], "score": score}
                for box, score, label in _rows(detections)
            ]
            entry = {"source": frame.source, "frame": frame.index, "width": width, "height": height, "detections": rows}
            file.write(separator + json.dumps(entry))
            separator = ",\n"

        yield add
        file.write("\n]}\n")


@contextmanager
def csv_report(path: Path, names: Sequence[str]) -> Iterator[Add]:
    """One row a detection, xyxy pixels of the frame; the file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, binary=False) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_HEADER)

        def add(frame: Frame, detections: Detections) -> None:
            for box, score, label in _rows(detections):
                writer.writerow((printable(frame.source), frame.index, label, names[label], score, *box))

        yield add


def yolo_labels(folder: Path, stem_of: Callable[[Frame], str]) -> Add:
    """A text file a frame, ``class cx cy w h score`` a line; boxes are cut at the border, relative to the image."""
    folder.mkdir(parents=True, exist_ok=True)

    def add(frame: Frame, detections: Detections) -> None:
        height, width = frame.image.shape[:2]
        with atomic_write(folder / f"{stem_of(frame)}.txt", binary=False) as file:
            for box, score, label in _rows(detections):
                x1, x2 = (min(max(x, 0.0), width) / width for x in box[0::2])
                y1, y2 = (min(max(y, 0.0), height) / height for y in box[1::2])
                numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score)
                file.write(f"{label} {' '.join(f'{number:.6f}' for number in numbers)}\n")

    return add


def crops(folder: Path, stem_of: Callable[[Frame], str], names: Sequence[str]) -> Add:
    """Each object cut out of its frame, as ``folder/<class>/<frame>_<number>.jpg``."""

    def add(frame: Frame, detections: Detections) -> None:
        height, width = frame.image.shape[:2]
        for number, (box, _score, label) in enumerate(_rows(detections), start=1):
            x1, x2 = (min(max(round(x), 0), width) for x in box[0::2])
            y1, y2 = (min(max(round(y), 0), height) for y in box[1::2])
            if x2 <= x1 or y2 <= y1:  # wholly outside, or thinner than a pixel
                continue
            place = folder / file_name(names[label])
            place.mkdir(parents=True, exist_ok=True)
            write_image(place / f"{stem_of(frame)}_{number}.jpg", np.ascontiguousarray(frame.image[y1:y2, x1:x2]))

    return add


def _rows(detections: Detections) -> Iterator[tuple[list[float], float, int]]:
    """Plain numbers, rounded to what means something: a thousandth of a pixel, a millionth of a score."""
    boxes, scores, labels = detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist()
    for box, score, label in zip(boxes, scores, labels, strict=True):
        yield [round(edge, 3) for edge in box], round(score, 6), label
