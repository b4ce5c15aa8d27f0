"""The loss of Scaled-YOLOv4 in loops over boxes, anchors and cells: slow, obvious, the measure for the real one."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.box_overlap import Box, ciou, iou
from utils.cfg.heads import Yolo

Truth = tuple[int, int, Box]  # image, label, xyxy in input pixels


def learners(section: Yolo, grid: tuple[int, int], stride: int, truths: list[Truth]) -> list[tuple[int, ...]]:
    """(truth, image, anchor, row, column) of every prediction that learns a box."""
    rows, columns = grid
    beyond = (section.scale_x_y - 1) / 2
    found = []
    for number, (image, _, (x1, y1, x2, y2)) in enumerate(truths):
        x, y = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride  # in cells
        own_column, own_row = min(int(x), columns - 1), min(int(y), rows - 1)
        aside = own_column - 1 if x - own_column < 0.5 else own_column + 1
        over = own_row - 1 if y - own_row < 0.5 else own_row + 1
        for anchor, index in enumerate(section.mask):
            width, height = section.anchors[index]
            ratios = ((x2 - x1) / width, (y2 - y1) / height)
            if max(max(ratio, 1 / ratio) for ratio in ratios) >= 4:
                continue
            found.append((number, image, anchor, own_row, own_column))
            if 0 <= aside < columns and -beyond < x - aside < 1 + beyond and -beyond < y - own_row < 1 + beyond:
                found.append((number, image, anchor, own_row, aside))
            if 0 <= over < rows and -beyond < y - over < 1 + beyond and -beyond < x - own_column < 1 + beyond:
                found.append((number, image, anchor, over, own_column))
    return found


def predicted_box(section: Yolo, entries: np.ndarray, anchor: int, row: int, column: int, stride: int) -> Box:
    """xyxy in input pixels of raw entries (5+K,)."""
    x, y, w, h = entries[:4].tolist()
    if not section.new_coords:
        x, y = sigmoid(x), sigmoid(y)
    x, y = (value * section.scale_x_y - (section.scale_x_y - 1) / 2 for value in (x, y))
    factors = (4 * w * w, 4 * h * h) if section.new_coords else (math.exp(w), math.exp(h))
    width, height = (factor * side for factor, side in zip(factors, section.anchors[section.mask[anchor]], strict=True))
    x, y = (x + column) * stride, (y + row) * stride
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def head_loss(section: Yolo, raw: np.ndarray, stride: int, truths: list[Truth], chosen=None) -> tuple[float, ...]:
    """Box, objectness and class means of one head, before their weights.

    Args:
        raw: float64 (B, A, 5+K, GH, GW).
        chosen: the learners; None is those of the shape rule.
    """
    images, anchors, _, rows, columns = raw.shape
    found = learners(section, (rows, columns), stride, truths) if chosen is None else chosen
    aims = np.zeros((images, anchors, rows, columns))
    box = classes = 0.0
    for number, image, anchor, row, column in found:
        _, label, actual = truths[number]
        entries = raw[image, anchor, :, row, column]
        predicted = predicted_box(section, entries, anchor, row, column, stride)
        box += 1 - ciou(predicted, actual)
        place = image, anchor, row, column
        aims[place] = max(aims[place], iou(predicted, actual))
        for index, output in enumerate(entries[5:].tolist()):
            aim = (index == label) * (1 - section.label_smooth_eps) + section.label_smooth_eps / 2
            weight = 1.0
            if section.counters_per_class:
                counts = section.counters_per_class
                weight = min(max(counts) / max(counts[index], 1), section.max_delta)
            classes += cross_entropy(section, output, aim, weight)
    outputs = raw[:, :, 4].reshape(-1).tolist()
    objectness = [cross_entropy(section, output, aim) for output, aim in zip(outputs, aims.reshape(-1), strict=True)]
    count = max(len(found), 1)
    return box / count, sum(objectness) / len(objectness), classes / count


def cross_entropy(section: Yolo, output: float, aim: float, weight: float = 1.0) -> float:
    probability = output if section.new_coords else sigmoid(output)
    return -(weight * aim * math.log(probability) + (1 - aim) * math.log(1 - probability))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
