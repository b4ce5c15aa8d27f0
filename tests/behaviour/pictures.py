"""Small data sets to train on, drawn here: the tree under test must not draw what it is tested with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

NAMES = ("red", "green", "blue")
SIZES = ((72, 96), (96, 72), (64, 64), (80, 110))  # height, width of the images, in turns
LARGE = (480, 640)  # the first one, whose file is decoded at a part of its size

Object = tuple[int, tuple[int, int, int, int]]  # label; x, y, width, height in pixels
Picture = tuple[str, np.ndarray, list[Object]]  # file name, uint8 (H, W, 3) BGR, what is in it


def write_cells(folder: Path) -> None:
    """A COCO folder, ``folder``, and beside it the same with label texts, .yaml and .data as ``folder``-texts."""
    rng = np.random.default_rng(25)
    splits = {"train": draw_pictures(rng, 13), "val": draw_pictures(rng, 6)}
    for split, pictures in splits.items():
        write_images(folder / split, pictures)
        write_json(folder / f"instances_{split}.json", coco_of(pictures, crowd=split == "val"))
        texts = folder.with_name(f"{folder.name}-texts")
        write_images(texts / "images" / split, pictures)
        write_labels(texts / "labels" / split, pictures)
        listed = "".join(f"images/{split}/{name}\n" for name, _, _ in pictures)
        (texts / f"{split}.txt").write_text(listed)
    (texts / "cells.names").write_text("\n".join(NAMES) + "\n")
    (texts / "cells.data").write_text("classes=3\ntrain=train.txt\nvalid=val.txt\nnames=cells.names\n")
    (texts / "cells.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: [{', '.join(NAMES)}]\n")


def write_shades(folder: Path) -> None:
    """Folders of classes for a classifier: noise in three colours."""
    rng = np.random.default_rng(21)
    for split, count in (("train", 12), ("val", 4)):
        for label, name in enumerate(NAMES):
            pictures = []
            for number in range(count):
                image = rng.integers(0, 160, (34 + number, 40, 3), np.uint8)
                image[..., 2 - label] += 60
                pictures.append((f"{number:02}.png", image, []))
            write_images(folder / split / name, pictures)


def write_clip(path: Path, frames: int = 12) -> None:
    """A video, .avi, of a rectangle and an ellipse that pass each other."""
    noise = np.random.default_rng(22).integers(60, 120, (80, 112, 3), np.uint8)
    film = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter.fourcc(*"MJPG"), 12, (112, 80))
    for frame in range(frames):
        image = noise.copy()
        draw(image, (0, (4 + 6 * frame, 10, 26, 22)))
        draw(image, (1, (80 - 6 * frame, 44, 24, 28)))
        film.write(image)
    film.release()


def draw_pictures(rng: np.random.Generator, count: int) -> list[Picture]:
    """Noise with up to four objects; the first is large and a .jpg, the others are .png."""
    pictures = []
    for number in range(count):
        height, width = LARGE if number == 0 else SIZES[number % len(SIZES)]
        image = rng.integers(60, 120, (height, width, 3), np.uint8)
        objects = [draw_object(rng, height, width) for _ in range(rng.integers(0 if number == 1 else 1, 5))]
        for one in objects:
            draw(image, one)
        pictures.append((f"{number:02}.{'png' if number else 'jpg'}", image, objects))
    return pictures


def draw_object(rng: np.random.Generator, height: int, width: int) -> Object:
    """Where an object lies and which class it is; the last class is rare."""
    w, h = (int(rng.integers(side // 5, side // 2)) for side in (width, height))
    label = int(rng.choice(len(NAMES), p=(0.5, 0.4, 0.1)))
    return label, (int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h)


def draw(image: np.ndarray, one: Object) -> None:
    """Paint an object into ``image`` in place: rectangles and, of the second class, ellipses."""
    label, (x, y, w, h) = one
    colour = tuple(230 if channel == 2 - label else 30 for channel in range(3))
    if label == 1:
        cv2.ellipse(image, (x + w // 2, y + h // 2), (w // 2, h // 2), 0, 0, 360, colour, -1)
    else:
        image[y : y + h, x : x + w] = colour


def write_images(folder: Path, pictures: Sequence[Picture]) -> None:
    """The files of ``pictures``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image, _ in pictures:
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, image)[1].tobytes())


def write_labels(folder: Path, pictures: Sequence[Picture]) -> None:
    """A text beside each image: class, centre and size relative to the image."""
    folder.mkdir(parents=True)
    for name, image, objects in pictures:
        height, width = image.shape[:2]
        rows = [
            f"{label} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n"
            for label, (x, y, w, h) in objects
        ]
        (folder / name).with_suffix(".txt").write_text("".join(rows))


def coco_of(pictures: Sequence[Picture], *, crowd: bool) -> dict[str, list[dict[str, object]]]:
    """COCO's annotations; with ``crowd`` the last box stands for many objects, as evaluation has to know."""
    images, annotations = [], []
    for number, (name, image, objects) in enumerate(pictures):
        images.append({"id": number + 5, "file_name": name, "height": image.shape[0], "width": image.shape[1]})
        for label, box in objects:
            about = {"id": len(annotations) + 1, "image_id": number + 5, "category_id": label + 1, "iscrowd": 0}
            annotations.append({**about, "bbox": list(box), "area": box[2] * box[3]})
    annotations[-1]["iscrowd"] = int(crowd)
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, content: object) -> None:
    """``content`` as json."""
    path.write_text(json.dumps(content))
