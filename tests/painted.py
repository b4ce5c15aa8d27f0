"""A network and a data set so small that a training takes seconds: coloured rectangles on noise, and a cfg for them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from utils.image import write_image
from utils.keyed_random import keyed_rng

NAMES = ("red", "blue")
SIDE = 64  # pixels of an image

# Dropout draws from torch's generator: without it nobody would notice if a resumed run forgot the generator's state.
CFG = """
[net]
batch=8
subdivisions=2
width=64
height=64
channels=3
momentum=0.9
decay=0.0005
learning_rate=0.01
burn_in=20
max_batches=300
policy=steps
steps=200,250
scales=.1,.1
saturation=1.2
exposure=1.2
hue=.02
mosaic=1
flip=1
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=24
size=3
stride=2
pad=1
activation=mish
[dropout]
probability=.02
[convolutional]
batch_normalize=1
filters=24
size=3
stride=1
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=24
size=3
stride=1
pad=1
activation=mish
[convolutional]
filters=14
size=1
stride=1
activation=linear
[yolo]
mask=0,1
anchors=16,16, 26,26
classes=2
num=2
jitter=.05
ignore_thresh=.7
iou_loss=ciou
iou_normalizer=.5
cls_normalizer=1
scale_x_y=1.05
"""


def painted_image(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, list[int]]]]:
    """Noise uint8 (64, 64, 3) RGB with a rectangle in up to four quarters, and (label, [x, y, w, h]) of each."""
    image = rng.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    objects = []
    quarters = rng.permutation(4)[: rng.integers(1, 4)]
    for quarter in quarters.tolist():
        label = int(rng.integers(2))
        w, h = rng.integers(14, 29, 2).tolist()
        x = quarter % 2 * 32 + int(rng.integers(0, 33 - w))
        y = quarter // 2 * 32 + int(rng.integers(0, 33 - h))
        image[y : y + h, x : x + w] = ((230, 30, 30), (30, 30, 230))[label]
        objects.append((label, [x, y, w, h]))
    return image, objects


def write_painted(folder: Path, images: int = 12, seed: int = 0) -> Path:
    """Write a COCO folder (train/, val/ with the same images), painted.cfg and painted.names; return ``folder``."""
    rng = np.random.default_rng(seed)
    rows, annotations = [], []
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
    for number in range(images):
        image, objects = painted_image(rng)
        name = f"{number:02}.png"
        for split in ("train", "val"):
            (folder / split / name).write_bytes(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
        rows.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for label, box in objects:
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": label + 1, "bbox": box, "iscrowd": 0}
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(NAMES)]
    for split in ("train", "val"):
        coco = {"images": rows, "annotations": annotations, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(coco))
    (folder / "painted.cfg").write_text(CFG)
    (folder / "painted.names").write_text("\n".join(NAMES) + "\n")
    return folder


def write_classes(root: Path) -> Path:
    """Noise for a classifier: five training and three validation images of two classes, in folders below ``root``."""
    rng = keyed_rng(7)
    for place in ("train/a/0", "train/a/1", "train/b/2", "train/b/3", "train/b/4", "val/a/5", "val/b/6", "val/b/7"):
        path = root / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(0, 256, (20, 30, 3), np.uint8))
    return root
