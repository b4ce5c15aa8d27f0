"""What all detection heads share, and [yolo]; the others are in gaussian and region."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.cfg.heads import GaussianYolo, Region, Yolo
from utils.nms import NmsKind
from utils.structures import Size


class Decoded(NamedTuple):
    """Boxes of a head: float32 (..., 4) xyxy in input pixels, objectness (...), class_probs (..., K) in [0, 1]."""

    boxes: Tensor
    objectness: Tensor
    class_probs: Tensor


class Candidates(NamedTuple):
    """The cells whose objectness exceeds a threshold, of all images of a batch.

    Attributes:
        image_index: int64 (N,).
        boxes: float32 (N, 4) xyxy, input pixels.
        objectness: float32 (N,).
        class_probs: float32 (N, K).
    """

    image_index: Tensor
    boxes: Tensor
    objectness: Tensor
    class_probs: Tensor


class DetectionHead(nn.Module):
    """A head over a raw map (B, A*E, GH, GW): A anchors with E entries each, the last K of them classes.

    Attributes:
        section: the cfg section.
        anchors: float (A, 2) width, height in input pixels of the anchors of this head's mask.
        all_anchors: float (num, 2), those of all heads.
        stride: (sy, sx), input pixels per cell.
        num_classes: K.
        index: position of the section in the cfg.
    """

    box_entries = 4  # entries of an anchor before its objectness

    anchors: Tensor
    all_anchors: Tensor

    def __init__(
        self,
        section: Yolo | GaussianYolo | Region,
        anchors: Sequence[tuple[float, float]],
        mask: tuple[int, ...],
        *,
        stride: tuple[float, float],
        index: int = 0,
    ) -> None:
        super().__init__()
        self.section = section
        self.num_classes: int = section.classes
        self.stride = stride
        self.index = index
        all_anchors = torch.tensor(anchors, dtype=torch.float32)
        self.register_buffer("all_anchors", all_anchors, persistent=False)
        self.register_buffer("anchors", all_anchors[list(mask)], persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DetectionHead:
        """Follow the network to its device but not to its precision: bfloat16 would make 459 pixels 460."""
        for name in ("all_anchors", "anchors"):
            anchors = getattr(self, name)
            setattr(self, name, anchors.to(fn(anchors).device))
        return self

    @property
    def num_anchors(self) -> int:
        """A."""
        return self.anchors.shape[0]

    @property
    def nms(self) -> tuple[NmsKind, float]:
        """The kind of suppression the cfg asks for, and its exponent."""
        return getattr(self.section, "nms_kind", "default"), getattr(self.section, "beta_nms", 0.6)  # not in [region]

    @property
    def entries(self) -> int:
        """E, the channels of one anchor."""
        return self.box_entries + 1 + self.num_classes

    def forward(self, raw: Tensor) -> Tensor:
        """The raw map in float32, whatever the network computes in: losses and decoding need its digits."""
        return raw.float()

    def grid(self, raw: Tensor) -> Tensor:
        """View a raw map as (B, A, E, GH, GW)."""
        batch, _, height, width = raw.shape
        return raw.reshape(batch, self.num_anchors, self.entries, height, width)

    def input_size(self, raw: Tensor) -> Size:
        """(H, W) of the network input that ``raw`` belongs to."""
        return round(raw.shape[-2] * self.stride[0]), round(raw.shape[-1] * self.stride[1])

    def activate(self, raw: Tensor) -> Tensor:
        """What Darknet's layer outputs: (B, A, E, GH, GW) with its sigmoids and ``scale_x_y`` applied."""
        entries = self.grid(raw.float()).movedim(2, -1)
        return self.activate_entries(entries).movedim(-1, 2)

    def decode(self, raw: Tensor) -> Decoded:
        """All boxes of a raw map: boxes (B, A*GH*GW, 4), objectness (B, N), class_probs (B, N, K)."""
        entries = self.activate_entries(self.grid(raw.float()).permute(0, 1, 3, 4, 2))  # (B, A, GH, GW, E)
        rows = torch.arange(raw.shape[-2], device=raw.device)[:, None]
        columns = torch.arange(raw.shape[-1], device=raw.device)
        decoded = self._decode_entries(entries, self.anchors[:, None, None], rows, columns)
        return Decoded(*(part.flatten(1, 3) for part in decoded))

    def candidates(self, raw: Tensor, threshold: float) -> Candidates:
        """Decode only the cells whose objectness exceeds ``threshold``: a few of many thousands."""
        grid = self.grid(raw.float())
        objectness = self.activate_objectness(grid[:, :, self.box_entries])
        # Cell by cell as Darknet: of equal scores, suppression keeps the first. NaN is not above the threshold.
        image, row, column, anchor = (objectness.movedim(1, -1) > threshold).nonzero(as_tuple=True)
        return Candidates(image, *self.decode_cells(grid[image, anchor, :, row, column], anchor, row, column))

    def decode_cells(self, entries: Tensor, anchor: Tensor, row: Tensor, column: Tensor) -> Decoded:
        """Decode raw entries (N, E) of single predictions; ``anchor``, ``row`` and ``column`` (N,) say which."""
        return self._decode_entries(self.activate_entries(entries), self.anchors[anchor], row, column)

    def activate_objectness(self, objectness: Tensor) -> Tensor:
        return objectness.sigmoid()

    def activate_entries(self, entries: Tensor) -> Tensor:
        """Activate entries laid out (..., E)."""
        raise NotImplementedError

    def _decode_entries(self, entries: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor) -> Decoded:
        """Boxes of activated entries (..., E); anchors (..., 2), rows and columns broadcast against (...)."""
        raise NotImplementedError

    def _boxes(self, x: Tensor, y: Tensor, width: Tensor, height: Tensor) -> Tensor:
        """Centres in cells and sizes in input pixels to xyxy in input pixels."""
        x, y = x * self.stride[1], y * self.stride[0]
        return torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), -1)


class YoloHead(DetectionHead):
    """[yolo]: per anchor x, y, w, h, objectness, classes (YOLOv3, arXiv 1804.02767, section 2.1).

    With ``new_coords`` (YOLOv4-CSP) the convolution before has the sigmoid, and sizes are (2 s)^2 times the anchor
    instead of e^t.
    """

    section: Yolo

    def activate_objectness(self, objectness: Tensor) -> Tensor:
        return objectness if self.section.new_coords else objectness.sigmoid()

    def activate_entries(self, entries: Tensor) -> Tensor:
        xy, wh, scores = entries.tensor_split((2, 4), -1)
        if not self.section.new_coords:
            xy, scores = xy.sigmoid(), scores.sigmoid()
        return torch.cat((stretch(xy, self.section.scale_x_y), wh, scores), -1)

    def _decode_entries(self, entries: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor) -> Decoded:
        wh = entries[..., 2:4]
        wh = 4 * wh.square() * anchors if self.section.new_coords else wh.exp() * anchors
        boxes = self._boxes(entries[..., 0] + columns, entries[..., 1] + rows, wh[..., 0], wh[..., 1])
        return Decoded(boxes, entries[..., 4], entries[..., 5:])


def stretch(xy: Tensor, scale_x_y: float) -> Tensor:
    """Stretch (0, 1) about its middle, so that a centre can lie on the border of its cell."""
    return xy if math.isclose(scale_x_y, 1) else xy * scale_x_y - (scale_x_y - 1) / 2
