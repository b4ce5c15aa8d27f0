"""Darknet's [region] layer in training, cell by cell and truth by truth in float64: the measure for the loss.

Slow on purpose. Boxes are (x, y, w, h), centre and size relative to the network input; anchors are in cells.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference.yolo_delta import Box, overlap

Tree = list[int]  # the parent of each class, -1 for none


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    odds = np.exp(x - x.max())
    return odds / odds.sum()


def brothers(tree: Tree, label: int) -> list[int]:
    """Those who stand together in the file and have one parent; the classes of a test's tree are laid out so."""
    return [other for other in range(len(tree)) if tree[other] == tree[label]]


class RegionLayer:
    """One layer, one image.

    Args:
        section: the [region] section.
        raw: (A, coords+1+K, GH, GW), the layer's input.
        truths: (box, label) in order, labels already mapped.
        prior: the network has seen fewer than 12800 images.
        tree: the class hierarchy.
    """

    def __init__(self, section, raw: np.ndarray, truths, *, prior: bool = False, tree: Tree | None = None) -> None:
        self.section, self.truths, self.prior, self.tree = section, truths, prior, tree
        self.output = raw.astype(np.float64).copy()
        self.at = section.coords  # of the objectness
        self.delta = np.zeros_like(self.output)
        self.ious: list[float] = []
        self.anchors, _, self.rows, self.columns = raw.shape

    def run(self) -> np.ndarray:
        places = [(a, j, i) for a in range(self.anchors) for j in range(self.rows) for i in range(self.columns)]
        for place in places:
            self._activate(*place)
        for place in places:
            self._prediction(*place)
        for truth in self.truths:
            self._truth(*truth)
        return self.delta

    def _activate(self, a: int, j: int, i: int) -> None:
        cell, at = self.output[a, :, j, i], self.at
        if self.section.background:
            cell[at:] = softmax(cell[at:])
            return
        cell[at] = sigmoid(cell[at])
        classes = cell[at + 1 :]
        if self.tree is not None:
            found = classes.copy()
            for label in range(len(classes)):
                family = brothers(self.tree, label)
                found[family] = softmax(classes[family])
            classes[:] = found
        elif self.section.softmax:
            classes[:] = softmax(classes)
        else:
            classes[:] = [sigmoid(x) for x in classes]

    def predicted(self, a: int, j: int, i: int) -> Box:
        x, y, w, h = self.output[a, :4, j, i].tolist()
        width, height = self.section.anchors[a]
        return (
            (i + sigmoid(x)) / self.columns,
            (j + sigmoid(y)) / self.rows,
            math.exp(w) * width / self.columns,
            math.exp(h) * height / self.rows,
        )

    def _objectness(self, a: int, j: int, i: int, scale: float, aim: float) -> None:
        p = self.output[a, self.at, j, i]
        slope = 1.0 if self.section.background else p * (1 - p)
        self.delta[a, self.at, j, i] = scale * (aim - p) * slope

    def _prediction(self, a: int, j: int, i: int) -> None:
        section = self.section
        best, best_label = 0.0, -1
        for box, label in self.truths:
            value = overlap("iou", self.predicted(a, j, i), box)
            if value > best:
                best, best_label = value, label
        if section.classfix == -1:
            self._objectness(a, j, i, section.noobject_scale, best)
        else:
            self._objectness(a, j, i, section.noobject_scale, 1.0 if section.background else 0.0)
            if best > section.thresh:
                self.delta[a, self.at, j, i] = 0
                if section.classfix > 0:
                    belief = self.output[a, self.at, j, i] if section.classfix == 2 else 1.0
                    self._classes(a, j, i, best_label, section.class_scale * belief)
        if self.prior:
            width, height = section.anchors[a]
            middle = ((i + 0.5) / self.columns, (j + 0.5) / self.rows, width / self.columns, height / self.rows)
            self._box(a, j, i, middle, 0.01)

    def _truth(self, box: Box, label: int) -> None:
        section = self.section
        i, j = int(box[0] * self.columns), int(box[1] * self.rows)
        best, best_a = 0.0, 0
        for a, (width, height) in enumerate(section.anchors):
            shape = (0, 0, width / self.columns, height / self.rows)
            if not section.bias_match:
                shape = (0, 0, *self.predicted(a, j, i)[2:])
            value = overlap("iou", shape, (0, 0, *box[2:]))
            if value > best:
                best, best_a = value, a
        iou = overlap("iou", self.predicted(best_a, j, i), box)
        self.ious.append(iou)
        self._box(best_a, j, i, box, section.coord_scale)
        aim = 0.0 if section.background else iou if section.rescore else 1.0
        self._objectness(best_a, j, i, section.object_scale, aim)
        self._classes(best_a, j, i, label, section.class_scale)

    def _box(self, a: int, j: int, i: int, box: Box, scale: float) -> None:
        x, y, w, h = self.output[a, :4, j, i].tolist()
        width, height = self.section.anchors[a]
        x, y = sigmoid(x), sigmoid(y)
        self.delta[a, :4, j, i] = (
            scale * (box[0] * self.columns - i - x) * x * (1 - x),
            scale * (box[1] * self.rows - j - y) * y * (1 - y),
            scale * (math.log(box[2] * self.columns / width) - w),
            scale * (math.log(box[3] * self.rows / height) - h),
        )

    def _classes(self, a: int, j: int, i: int, label: int, scale: float) -> None:
        probs, delta = self.output[a, self.at + 1 :, j, i], self.delta[a, self.at + 1 :, j, i]
        if self.tree is not None:
            while label >= 0:
                for other in brothers(self.tree, label):
                    delta[other] = scale * (float(other == label) - probs[other])
                label = self.tree[label]
            return
        p = probs[label] + 1e-15
        focus = -(1 - p) * (2 * p * math.log(p) + p - 1) * 0.5 if self.section.focal_loss else 1.0
        for other in range(len(probs)):
            delta[other] = scale * (float(other == label) - probs[other]) * focus
