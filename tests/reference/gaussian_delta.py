"""Darknet's [Gaussian_yolo] layer in training, cell by cell and truth by truth in float64: the measure for the loss.

Slow on purpose. Boxes are (x, y, w, h), centre and size relative to the network input.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference.yolo_delta import Box, box_rise, overlap

SHIFT = {"center": 0.0, "left_top": 0.5, "right_bottom": -0.5}


class GaussianLayer:
    """One layer, one image.

    Args:
        section: the [Gaussian_yolo] section.
        output: (A, 9+K, GH, GW), what the layer puts out (sigmoids and scale_x_y applied).
        truths: (box, label) in order.
        size: (H, W) of the input.
    """

    def __init__(self, section, output: np.ndarray, truths: list[tuple[Box, int]], size: tuple[int, int]) -> None:
        self.section, self.output, self.truths, self.size = section, output.astype(np.float64), truths, size
        self.delta = np.zeros_like(self.output)
        self.ious: list[float] = []
        self.shift = SHIFT[section.yolo_point]
        self.multipliers = np.ones(section.classes)
        if section.counters_per_class:
            counts = np.maximum(section.counters_per_class, 1)
            self.multipliers = np.minimum(counts.max() / counts, section.max_delta)

    def run(self) -> np.ndarray:
        anchors, _, rows, columns = self.output.shape
        places = [(a, j, i) for a in range(anchors) for j in range(rows) for i in range(columns)]
        for place in places:
            self._prediction(*place)
        for truth in self.truths:
            self._truth(*truth)
        for a, j, i in places:
            delta = self.delta[a, :, j, i]
            delta[:8] /= max(1, (delta[9:] > 0).sum())
        return self.delta

    def predicted(self, a: int, j: int, i: int) -> Box:
        x, y, w, h = self.output[a, 0:8:2, j, i].tolist()
        _, _, rows, columns = self.output.shape
        width, height = self.section.anchors[self.section.mask[a]]
        w, h = math.exp(w) * width / self.size[1], math.exp(h) * height / self.size[0]
        return (i + x) / columns + self.shift * w, (j + y) / rows + self.shift * h, w, h

    def _prediction(self, a: int, j: int, i: int) -> None:
        section, cell, delta = self.section, self.output[a, :, j, i], self.delta[a, :, j, i]
        best, best_truth = 0.0, None
        for truth in self.truths:
            value = overlap("iou", self.predicted(a, j, i), truth[0])
            if value > best:
                best, best_truth = value, truth
        delta[8] = section.obj_normalizer * (0 - cell[8])
        if (cell[9:] > 0.25).any() and best > section.ignore_thresh:
            delta[8] = 0
            if section.objectness_smooth:
                delta[8] = section.obj_normalizer * (best**2 - cell[8])
                self._classes(cell, delta, best_truth[1])
        if best > section.truth_thresh:
            box, label = best_truth
            aim = best**2 if section.objectness_smooth else 1.0
            delta[8] = section.obj_normalizer * (aim - cell[8])
            self._classes(cell, delta, label)
            if section.objectness_smooth:
                delta[9 + label] = self.multipliers[label] * (best**2 - cell[9 + label])
            self._box(a, j, i, box, label)

    def _truth(self, truth: Box, label: int) -> None:
        section = self.section
        _, _, rows, columns = self.output.shape
        i = min(columns - 1, max(0, int((truth[0] - self.shift * truth[2]) * columns)))
        j = min(rows - 1, max(0, int((truth[1] - self.shift * truth[3]) * rows)))
        shape = (0, 0, truth[2], truth[3])
        anchors = [(0, 0, w / self.size[1], h / self.size[0]) for w, h in section.anchors]
        best = max(range(len(anchors)), key=lambda n: overlap("iou", anchors[n], shape))
        chosen = [best] + [
            n
            for n, anchor in enumerate(anchors)
            if n != best
            and section.iou_thresh < 1
            and overlap(section.iou_thresh_kind, anchor, shape) > section.iou_thresh
        ]
        for n in chosen:
            if n in section.mask:
                self._learn(section.mask.index(n), j, i, truth, label)

    def _learn(self, a: int, j: int, i: int, truth: Box, label: int) -> None:
        section, cell, delta = self.section, self.output[a, :, j, i], self.delta[a, :, j, i]
        self.ious.append(overlap("iou", self.predicted(a, j, i), truth))
        self._box(a, j, i, truth, label)
        delta[8] = self.multipliers[label] * section.obj_normalizer * (1 - cell[8])
        self._classes(cell, delta, label)

    def _classes(self, cell: np.ndarray, delta: np.ndarray, label: int) -> None:
        section, smooth = self.section, self.section.label_smooth_eps
        if delta[9] != 0:  # learnt before
            delta[9 + label] = (1 - smooth + smooth / 2 - cell[9 + label]) * self.multipliers[label]
            return
        for c in range(section.classes):
            own = float(c == label)
            delta[9 + c] = own * (1 - smooth) + smooth / 2 - cell[9 + c]
            if section.counters_per_class and own:
                delta[9 + c] *= self.multipliers[label] * section.cls_normalizer

    def _box(self, a: int, j: int, i: int, truth: Box, label: int) -> None:
        section, out = self.section, self.output[a, :, j, i]
        _, _, rows, columns = self.output.shape
        width, height = section.anchors[section.mask[a]]
        targets = (
            (truth[0] - self.shift * truth[2]) * columns - i,
            (truth[1] - self.shift * truth[3]) * rows - j,
            math.log(truth[2] * self.size[1] / width),
            math.log(truth[3] * self.size[0] / height),
        )
        if section.iou_loss != "mse":
            x, y, w, h = box_rise(section.iou_loss, self.predicted(a, j, i), truth)
            rise = (x - self.shift * w, y - self.shift * h, w * math.exp(out[4]), h * math.exp(out[6]))
        for n, target in enumerate(targets):
            mean, sigma = out[2 * n], out[2 * n + 1]
            error = (target - mean) / sigma
            likelihood = math.exp(-(error**2) / 2) / (math.sqrt(2 * math.pi) * (sigma + 0.3))
            weight = 0.5 * (2 - truth[2] * truth[3]) * likelihood / (likelihood + 1e-9)
            d_mean = weight * error / sigma if section.iou_loss == "mse" else rise[n]
            d_sigma = weight * (error**2 / sigma - 1 / (sigma + 0.3))
            for entry, value in (
                (2 * n, d_mean * section.iou_normalizer * self.multipliers[label]),
                (2 * n + 1, d_sigma * section.uc_normalizer),
            ):
                value = value if math.isfinite(value) else 0.0
                self.delta[a, entry, j, i] += min(max(value, -section.max_delta), section.max_delta)
