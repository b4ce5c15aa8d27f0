"""The head of YOLOv2 and YOLO9000."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.heads.class_tree import ClassTree, find_class_file, read_class_map, read_class_tree
from models.heads.yolo import Candidates, Decoded, DetectionHead
from utils.cfg.heads import Region
from utils.errors import CfgError

_SPECIFIC = 0.5  # a class of a tree is reported if it is more likely than this; Darknet's -hier
_SURE = 0.5  # classfix=-1 reports no object below this


class RegionHead(DetectionHead):
    """[region]: softmax over the classes, anchors in cells (arXiv 1612.08242, section 2).

    The entries of an anchor are x, y, w, h (and those beyond four ``coords``, which mean nothing here), objectness,
    classes. With ``background`` the objectness stands for a class "nothing" of the softmax instead. With ``tree`` the
    classes compete among brothers only; the file is read when it is first needed, so that a network can be built,
    listed and converted without it.

    Args:
        source: the cfg, beside which ``tree`` and ``map`` are looked for.
    """

    section: Region

    def __init__(
        self,
        section: Region,
        anchors: Sequence[tuple[float, float]],
        mask: tuple[int, ...],
        *,
        stride: tuple[float, float],
        index: int = 0,
        source: str = "<string>",
    ) -> None:
        super().__init__(section, anchors, mask, stride=stride, index=index)
        self.box_entries = section.coords
        self.source = source
        self._tree: ClassTree | None = None

    def class_tree(self, device: torch.device) -> ClassTree | None:
        """The hierarchy of the classes on ``device``, None without.

        Raises:
            CfgError: the file is missing, broken, or has another number of classes than the section.
        """
        if self.section.tree is None:
            return None
        if self._tree is None:
            self._tree = self._read_tree(self.section.tree)
        self._tree = self._tree.to(device)
        return self._tree

    def class_map(self) -> Tensor | None:
        """int64 (labels,), the class that each label of the data means; None where they are the same."""
        if self.section.map is None:
            return None
        return read_class_map(self._find("map", self.section.map), self.num_classes)

    def activate_objectness(self, objectness: Tensor) -> Tensor:
        if self.section.background:  # every place is reported; its classes say if it is worth it
            return torch.ones_like(objectness)
        return self._sure(objectness.sigmoid())

    def activate_entries(self, entries: Tensor) -> Tensor:
        xy, wh, rest, objectness, classes = entries.split((2, 2, self.box_entries - 4, 1, self.num_classes), -1)
        tree = self.class_tree(entries.device)
        if self.section.background:
            scores = torch.cat((objectness, classes), -1).softmax(-1)
        else:
            scores = torch.cat((objectness.sigmoid(), self._class_probs(classes, tree)), -1)
        return torch.cat((xy.sigmoid(), wh, rest, scores), -1)

    def candidates(self, raw: Tensor, threshold: float) -> Candidates:
        """As for every head; but a class of a tree is reported with its own probability, as Darknet does."""
        found = super().candidates(raw, threshold)
        if self.section.tree is None:
            return found
        return found._replace(objectness=torch.ones_like(found.objectness))

    def _decode_entries(self, entries: Tensor, anchors: Tensor, rows: Tensor, columns: Tensor) -> Decoded:
        wh = entries[..., 2:4].exp() * anchors
        boxes = self._boxes(entries[..., 0] + columns, entries[..., 1] + rows, wh[..., 0], wh[..., 1])
        objectness, probs = entries[..., self.box_entries], entries[..., self.box_entries + 1 :]
        tree = self.class_tree(entries.device)
        if tree is not None:
            probs = tree.most_specific(tree.absolute(probs), _SPECIFIC)
        objectness = torch.ones_like(objectness) if self.section.background else self._sure(objectness)
        return Decoded(boxes, objectness, probs)

    def _class_probs(self, classes: Tensor, tree: ClassTree | None) -> Tensor:
        if tree is not None:
            return tree.softmax(classes)
        return classes.softmax(-1) if self.section.softmax else classes.sigmoid()

    def _sure(self, objectness: Tensor) -> Tensor:
        """Objectness as it is reported: with ``classfix=-1`` it was trained to be the IoU, and counts from .5 on."""
        return torch.where(objectness < _SURE, 0, objectness) if self.section.classfix == -1 else objectness

    def _read_tree(self, name: str) -> ClassTree:
        path = self._find("tree", name)
        tree = read_class_tree(path)
        if len(tree) != self.num_classes:
            raise CfgError(f"{self._where} tree={name} has {len(tree)} classes (wanted classes={self.num_classes})")
        return tree

    def _find(self, key: str, name: str) -> Path:
        return find_class_file(name, self.source, f"{self._where} {key}={name}")

    @property
    def _where(self) -> str:
        return f"{self.source}:{self.section.line}: [region]"
