"""Darknet's [yolo] layer in training, cell by cell and truth by truth in float64: the measure for the loss.

Slow on purpose. Boxes are (x, y, w, h), centre and size relative to the network input.
"""

from __future__ import annotations

import math

import numpy as np

from tests.reference import box_overlap

Box = tuple[float, float, float, float]


def corners(box: Box) -> Box:
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def overlap(kind: str, a: Box, b: Box) -> float:
    measure = {"giou": box_overlap.giou, "diou": box_overlap.diou, "ciou": box_overlap.ciou}.get(kind, box_overlap.iou)
    return measure(corners(a), corners(b))


class YoloLayer:
    """One layer, one image.

    Args:
        section: the [yolo] section.
        output: (A, 5+K, GH, GW), what the layer puts out (sigmoids and scale_x_y applied).
        truths: (box, label) in order.
        size: (H, W) of the input.
    """

    def __init__(self, section, output: np.ndarray, truths: list[tuple[Box, int]], size: tuple[int, int]) -> None:
        self.section, self.output, self.truths, self.size = section, output.astype(np.float64), truths, size
        self.delta = np.zeros_like(self.output)
        self.ious: list[float] = []
        self.gious: list[float] = []
        counts = [max(count, 1) for count in section.counters_per_class or ()]
        self.multipliers = [min(max(counts) / count, section.max_delta) for count in counts] or [1.0] * section.classes

    def run(self) -> np.ndarray:
        anchors, _, rows, columns = self.output.shape
        for a in range(anchors):
            for j in range(rows):
                for i in range(columns):
                    self._prediction(a, j, i)
        for truth in self.truths:
            self._truth(*truth)
        if self.section.iou_thresh < 1:
            for a in range(anchors):
                for j in range(rows):
                    for i in range(columns):
                        self._share(a, j, i)
        return self.delta

    def predicted(self, a: int, j: int, i: int) -> Box:
        x, y, w, h = self.output[a, :4, j, i].tolist()
        _, _, rows, columns = self.output.shape
        width, height = self.section.anchors[self.section.mask[a]]
        w, h = (4 * w * w, 4 * h * h) if self.section.new_coords else (math.exp(w), math.exp(h))
        return (i + x) / columns, (j + y) / rows, w * width / self.size[1], h * height / self.size[0]

    def _prediction(self, a: int, j: int, i: int) -> None:
        section, cell, delta = self.section, self.output[a, :, j, i], self.delta[a, :, j, i]
        box = self.predicted(a, j, i)
        best, best_truth, best_match = 0.0, None, 0.0
        for truth in self.truths:
            value = overlap("iou", box, truth[0])
            if (cell[5:] > 0.25).any():
                best_match = max(best_match, value)
            if value > best:
                best, best_truth = value, truth
        delta[4] = -section.obj_normalizer * cell[4]
        if best_match > section.ignore_thresh:
            aim = section.obj_normalizer * (best_match - cell[4])
            delta[4] = max(delta[4], aim) if section.objectness_smooth else 0
        if best > section.truth_thresh:
            aim = best**2 if section.objectness_smooth else 1
            delta[4] = section.obj_normalizer * (aim - cell[4])
            box, label = best_truth
            self._classes(cell, delta, label)
            if section.objectness_smooth:
                delta[5 + label] = self.multipliers[label] * (best**2 - cell[5 + label])
            self._box(a, j, i, box, label)

    def _truth(self, truth: Box, label: int) -> None:
        section = self.section
        _, _, rows, columns = self.output.shape
        i, j = int(truth[0] * columns), int(truth[1] * rows)
        shape = (0, 0, truth[2], truth[3])
        anchors = [(0, 0, w / self.size[1], h / self.size[0]) for w, h in section.anchors]
        best = max(range(len(anchors)), key=lambda n: overlap("iou", anchors[n], shape))
        if best in section.mask:
            self._learn(section.mask.index(best), j, i, truth, label)
        for n, anchor in enumerate(anchors):
            if n == best or n not in section.mask or section.iou_thresh >= 1:
                continue
            if overlap(section.iou_thresh_kind, anchor, shape) > section.iou_thresh:
                self._learn(section.mask.index(n), j, i, truth, label)

    def _learn(self, a: int, j: int, i: int, truth: Box, label: int) -> None:
        section, cell, delta = self.section, self.output[a, :, j, i], self.delta[a, :, j, i]
        self.ious.append(overlap("iou", self.predicted(a, j, i), truth))
        self.gious.append(overlap("giou", self.predicted(a, j, i), truth))
        self._box(a, j, i, truth, label)
        if not section.objectness_smooth or delta[4] == 0:
            delta[4] = self.multipliers[label] * section.obj_normalizer * (1 - cell[4])
        self._classes(cell, delta, label)

    def _classes(self, cell: np.ndarray, delta: np.ndarray, label: int) -> None:
        section, smooth = self.section, self.section.label_smooth_eps
        if delta[5 + label] != 0:
            delta[5 + label] = (1 - smooth + smooth / 2 - cell[5 + label]) * self.multipliers[label]
            return
        p_true = cell[5 + label] + 1e-15
        slope = -(1 - p_true) * (2 * p_true * math.log(p_true) + p_true - 1)
        for c in range(section.classes):
            own = float(c == label)
            if section.focal_loss:
                delta[5 + c] = (own - cell[5 + c]) * 0.5 * slope
                continue
            delta[5 + c] = own * (1 - smooth) + smooth / 2 - cell[5 + c]
            if section.counters_per_class and own:
                delta[5 + c] *= self.multipliers[label] * section.cls_normalizer

    def _box(self, a: int, j: int, i: int, truth: Box, label: int) -> None:
        section, out = self.section, self.output[a, :4, j, i]
        _, _, rows, columns = self.output.shape
        weight = section.iou_normalizer * self.multipliers[label]
        if section.iou_loss == "mse":
            width, height = section.anchors[section.mask[a]]
            ratios = truth[2] * self.size[1] / width, truth[3] * self.size[0] / height
            aim = [math.sqrt(r / 4) if section.new_coords else math.log(r) for r in ratios]
            aim = np.array([truth[0] * columns - i, truth[1] * rows - j, *aim])
            self.delta[a, :4, j, i] += weight * (2 - truth[2] * truth[3]) * (aim - out)
            return
        rise = np.array(box_rise(section.iou_loss, self.predicted(a, j, i), truth)) * weight
        if not section.new_coords:
            rise[2:] *= np.exp(out[2:])
        rise[~np.isfinite(rise)] = 0
        self.delta[a, :4, j, i] += np.clip(rise, -section.max_delta, section.max_delta)

    def _share(self, a: int, j: int, i: int) -> None:
        delta = self.delta[a, :, j, i]
        raised = (delta[5:] > 0).sum()
        if delta[4] != 0 and raised > 0:
            delta[:4] /= raised


def box_rise(kind: str, box: Box, truth: Box) -> tuple[float, float, float, float]:
    """Darknet's direction of rising overlap for x, y, w, h, its peculiarities included."""
    pw, ph = box[2] or 1.0, box[3] or 1.0
    box = (box[0], box[1], pw, ph)
    (left, top, right, bottom), (t_left, t_top, t_right, t_bottom) = corners(box), corners(truth)
    inner_w, inner_h = min(right, t_right) - max(left, t_left), min(bottom, t_bottom) - max(top, t_top)
    inner = inner_w * inner_h
    union = pw * ph + truth[2] * truth[3] - inner
    d_inner = {
        "l": -inner_h if left > t_left else 0,
        "r": inner_h if right < t_right else 0,
        "t": -inner_w if top > t_top else 0,
        "b": inner_w if bottom < t_bottom else 0,
    }
    d_area = {"l": -ph, "r": ph, "t": -pw, "b": pw}
    d_union = {edge: d_area[edge] - d_inner[edge] for edge in "lrtb"}
    rise = {e: (union * d_inner[e] - inner * d_union[e]) / union**2 if union > 0 else 0 for e in "lrtb"}
    apart = inner_w <= 0 or inner_h <= 0
    hull_w, hull_h = max(right, t_right) - min(left, t_left), max(bottom, t_bottom) - min(top, t_top)
    if kind == "giou":
        hull = hull_w * hull_h
        d_hull = {
            "l": -hull_h if left < t_left else 0,
            "r": hull_h if right > t_right else 0,
            "t": -hull_w if top < t_top else 0,
            "b": hull_w if bottom > t_bottom else 0,
        }
        term = {edge: (hull * d_union[edge] - union * d_hull[edge]) / hull**2 for edge in "lrtb"}
        rise = {edge: term[edge] if apart else rise[edge] + term[edge] for edge in "lrtb"}
    x, y, w, h = rise["l"] + rise["r"], rise["t"] + rise["b"], rise["r"] - rise["l"], rise["b"] - rise["t"]
    if kind in ("iou", "giou"):
        return x, y, w, h
    if apart:
        x = y = w = h = 0.0
    c, s = hull_w**2 + hull_h**2, (truth[0] - box[0]) ** 2 + (truth[1] - box[1]) ** 2
    x += (2 * (truth[0] - box[0]) * c - 2 * hull_w * ((right > t_right) - (left < t_left)) * s) / c**2
    y += (2 * (truth[1] - box[1]) * c - 2 * hull_h * ((bottom > t_bottom) - (top < t_top)) * s) / c**2
    w += 2 * hull_w * 0.5 * ((right > t_right) + (left < t_left)) * s / c**2
    h += 2 * hull_h * 0.5 * ((bottom > t_bottom) + (top < t_top)) * s / c**2
    if kind == "ciou":
        angle = math.atan(truth[2] / truth[3]) - math.atan(pw / ph)
        v = 4 / math.pi**2 * angle**2
        alpha = v / (1 - inner / union + v + 1e-6)
        w += alpha * 8 / math.pi**2 * angle * ph
        h -= alpha * 8 / math.pi**2 * angle * pw
    return x, y, w, h
