"""The head of Gaussian YOLOv3, which says how sure it is of each coordinate."""

from __future__ import annotations

import torch
from torch import Tensor

from models.heads.yolo import Decoded, DetectionHead, stretch
from utils.cfg.heads import GaussianYolo


class GaussianYoloHead(DetectionHead):
    """[Gaussian_yolo]: every coordinate comes with its uncertainty (arXiv 1904.04620).

    The entries are x, sx, y, sy, w, sw, h, sh, objectness, classes; class_probs are multiplied by one minus the mean
    uncertainty, as Darknet does.
    """

    section: GaussianYolo
    box_entries = 8

    @property
    def centre_shift(self) -> float:
        """From the point that x and y say, a corner or the centre itself, to the centre: this part of the size."""
        return {"center": 0.0, "left_top": 0.5, "right_bottom": -0.5}[self.section.yolo_point]

    def activate_entries(self, entries: Tensor) -> Tensor:
        box = entries[..., :8].unflatten(-1, (4, 2))
        centre = stretch(box[..., :2, 0].sigmoid(), self.section.scale_x_y)
        means = torch.cat((centre, box[..., 2:, 0]), -1)
        box = torch.stack((means, box[..., 1].sigmoid()), -1).flatten(-2)
        return torch.cat((box, entries[..., 8:].sigmoid()), -1)

    def _decode_entries(self, entries: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor) -> Decoded:
        x, y = entries[..., 0] + columns, entries[..., 2] + rows
        width, height = entries[..., 4].exp() * anchors[..., 0], entries[..., 6].exp() * anchors[..., 1]
        x, y = x + self.centre_shift * width / self.stride[1], y + self.centre_shift * height / self.stride[0]
        certainty = 1 - entries[..., 1:8:2].mean(-1, keepdim=True)
        return Decoded(self._boxes(x, y, width, height), entries[..., 8], entries[..., 9:] * certainty)
