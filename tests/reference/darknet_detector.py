"""Darknet's way from an image to boxes, step by step and in its own units: slow, in numpy, without our network code.

Boxes are x, y, w, h: the centre and the size, relative to the image. Numbers are float32 as in C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

F32 = np.float32


@dataclass
class Detection:
    """One cell's box; ``prob`` has a score for each class, 0 where it is below the threshold or suppressed."""

    box: tuple[float, float, float, float]
    objectness: float
    prob: np.ndarray


def resize_image(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize float32 (C, H, W) along the rows, then along the columns; corner pixels keep their places."""
    channels, in_height, in_width = image.shape
    part = np.zeros((channels, in_height, width), F32)
    scale = F32(in_width - 1) / F32(width - 1)
    for column in range(width):
        if column == width - 1 or in_width == 1:
            part[:, :, column] = image[:, :, in_width - 1]
        else:
            place = F32(column) * scale
            left = int(place)
            share = place - F32(left)
            part[:, :, column] = (F32(1) - share) * image[:, :, left] + share * image[:, :, left + 1]
    resized = np.zeros((channels, height, width), F32)
    scale = F32(in_height - 1) / F32(height - 1)
    for row in range(height):
        place = F32(row) * scale
        upper = min(int(place), in_height - 1)
        share = place - F32(upper)
        resized[:, row] = (F32(1) - share) * part[:, upper]
        if row != height - 1 and in_height != 1:
            resized[:, row] += share * part[:, upper + 1]
    return resized


def letterbox_image(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize to fit, and put into the middle of a grey image."""
    _, in_height, in_width = image.shape
    new_width, new_height = fitted(in_width, in_height, width, height)
    boxed = np.full((image.shape[0], height, width), 0.5, F32)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    boxed[:, top : top + new_height, left : left + new_width] = resize_image(image, new_width, new_height)
    return boxed


def fitted(in_width: int, in_height: int, width: int, height: int) -> tuple[int, int]:
    """(width, height) of the letterboxed image, in whole numbers."""
    if F32(width) / F32(in_width) < F32(height) / F32(in_height):
        return width, in_height * width // in_width
    return in_width * height // in_height, height


def logistic(x: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(F32)


def yolo_detections(raw: np.ndarray, section, net_size: tuple[int, int], threshold: float) -> list[Detection]:
    """The boxes of a [yolo] layer whose objectness exceeds ``threshold``.

    Args:
        raw: (n * (5 + C), h, w), the output of the layer before.
        section: the keys of the layer.
        net_size: (width, height) of the network.
    """
    anchors = [section.anchors[index] for index in section.mask]
    _, height, width = raw.shape
    output = raw.reshape(len(anchors), 5 + section.classes, height, width).copy()
    if not section.new_coords:
        output[:, :2] = logistic(output[:, :2])
        output[:, 4:] = logistic(output[:, 4:])
    output[:, :2] = output[:, :2] * F32(section.scale_x_y) - F32(0.5) * F32(section.scale_x_y - 1)
    found = []
    for row in range(height):
        for column in range(width):
            for index, (anchor_w, anchor_h) in enumerate(anchors):
                x, y, w, h, objectness = output[index, :5, row, column]
                if objectness <= threshold:
                    continue
                if section.new_coords:
                    sizes = w * w * 4 * anchor_w / net_size[0], h * h * 4 * anchor_h / net_size[1]
                else:
                    sizes = np.exp(w) * anchor_w / net_size[0], np.exp(h) * anchor_h / net_size[1]
                prob = objectness * output[index, 5:, row, column]
                prob[prob <= threshold] = 0
                box = ((column + x) / width, (row + y) / height, *sizes)
                found.append(Detection(tuple(float(value) for value in box), float(objectness), prob))
    return found


def correct_boxes(
    found: list[Detection], image_size: tuple[int, int], net_size: tuple[int, int], *, letter: bool
) -> None:
    """Make the boxes relative to the image instead of the network's input, in place; sizes are (width, height)."""
    width, height = net_size
    new_width, new_height = fitted(*image_size, width, height) if letter else net_size
    left, top = (width - new_width) / 2 / width, (height - new_height) / 2 / height
    for one in found:
        x, y, w, h = one.box
        one.box = (
            (x - left) / (new_width / width),
            (y - top) / (new_height / height),
            w * width / new_width,
            h * height / new_height,
        )


def suppress(found: list[Detection], classes: int, threshold: float, kind: str, beta: float) -> None:
    """Non-maximum suppression class by class: zero the scores of what overlaps something better, in place."""
    found[:] = [one for one in found if one.objectness]
    for label in range(classes):
        order = sorted((one for one in found if one.prob[label] > 0), key=lambda one: -one.prob[label])
        for index, better in enumerate(order):
            if better.prob[label] == 0:
                continue
            for worse in order[index + 1 :]:
                if worse.prob[label] and overlap(better.box, worse.box, kind, beta) > threshold:
                    worse.prob[label] = 0


def overlap(one: tuple[float, ...], other: tuple[float, ...], kind: str, beta: float) -> float:
    """IoU, less the distance of the centres for the kinds that count it."""
    shared_w, hull_w = extents(one[0], one[2], other[0], other[2])
    shared_h, hull_h = extents(one[1], one[3], other[1], other[3])
    intersection = shared_w * shared_h if shared_w > 0 and shared_h > 0 else 0.0
    union = one[2] * one[3] + other[2] * other[3] - intersection
    iou = intersection / union if intersection and union else 0.0
    if kind not in ("greedynms", "diounms"):
        return iou
    distance = (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2
    diagonal = hull_w**2 + hull_h**2
    return iou - (distance / diagonal) ** (beta if kind == "diounms" else 0.6) if diagonal else iou


def extents(x1: float, w1: float, x2: float, w2: float) -> tuple[float, float]:
    """What two intervals given by centre and length have in common, and what they span together."""
    low1, high1, low2, high2 = x1 - w1 / 2, x1 + w1 / 2, x2 - w2 / 2, x2 + w2 / 2
    return min(high1, high2) - max(low1, low2), max(high1, high2) - min(low1, low2)


def coco_rows(
    found: list[Detection], image_id: int, image_size: tuple[int, int], category_ids: tuple[int, ...]
) -> list[dict]:
    """What ``darknet detector valid`` writes of one image: boxes clipped to it, in pixels."""
    width, height = image_size
    rows = []
    for one in found:
        x, y, w, h = one.box
        left, right = max(0.0, (x - w / 2) * width), min(float(width), (x + w / 2) * width)
        top, bottom = max(0.0, (y - h / 2) * height), min(float(height), (y + h / 2) * height)
        for label in np.nonzero(one.prob)[0]:
            box = [left, top, right - left, bottom - top]
            score = float(one.prob[label])
            rows.append({"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score})
    return rows
