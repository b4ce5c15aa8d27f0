"""The detection heads of a cfg: ``[yolo]``, ``[Gaussian_yolo]``, ``[region]``, and ``[contrastive]`` beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from utils.cfg.layers import Section
from utils.cfg.options import BIG, declare, integer, real, reference, switch, word
from utils.cfg.values import Integer, Items, Pairs, Real, Text

IOU_KINDS = ("mse", "iou", "giou", "diou", "ciou")
NMS_KINDS = ("default", "greedynms", "diounms", "cornersnms")
_CLASSES = 65536


@dataclass(frozen=True, kw_only=True)
class Yolo(Section):
    """``[yolo]``: a detection head. The convolution before it has len(mask) * (5 + classes) filters."""

    kind = "yolo"
    ignored: ClassVar[tuple[str, ...]] = ("uc_normalizer", "beta1")

    classes: int = integer(20, 1, _CLASSES)
    num: int = integer(1, 1, 1024, "anchors of all heads together")
    mask: tuple[int, ...] = declare(Items(Integer(0, 1023)), None, "the anchors of this head; default all")
    anchors: tuple[tuple[float, float], ...] = declare(Pairs(Real(1e-6, BIG), fill=0.5), None, "(w, h), input pixels")
    max: int = integer(200, 1, 10**6, "truth boxes an image may have")

    jitter: float = real(0.2, 0, 10, "random crop, part of the side")
    resize: float = real(1.0, 0.01, 100, "random zoom, with jitter")
    random: float = real(0.0, 0, 100, "multi-scale; 1 means 1.4")

    ignore_thresh: float = real(0.5, 0, 10, "no objectness loss above this IoU")
    truth_thresh: float = real(1.0, 0, 10, "positive above this IoU; 1: none")
    iou_thresh: float = real(1.0, 0, 10, "other anchors above it are positive too; 1: none")
    iou_thresh_kind: str = word("iou", IOU_KINDS)
    iou_loss: str = word("mse", IOU_KINDS)
    iou_normalizer: float = real(0.75, 0, BIG, "weight of the box")
    obj_normalizer: float = real(1.0, 0, BIG, "weight of objectness")
    cls_normalizer: float = real(1.0, 0, BIG, "Darknet uses it only beside counters_per_class")
    delta_normalizer: float = real(1.0, 0, BIG, "weight of the whole head")
    max_delta: float = real(math.inf, 0, BIG, "limit of each box gradient")
    scale_x_y: float = real(1.0, 0, 100, "lets centres reach the border of their cell")
    new_coords: bool = switch("the convolution is logistic; w = 4 * t**2 * anchor")
    objectness_smooth: bool = switch("objectness learns the IoU")
    label_smooth_eps: float = real(0.0, 0, 1)
    focal_loss: bool = switch("for classes")
    counters_per_class: tuple[int, ...] | None = declare(Items(Integer(0, 2**31 - 1)), None, "objects in the data set")
    show_details: bool = switch("which cost is printed", default=True)

    nms_kind: str = word("default", NMS_KINDS)
    beta_nms: float = real(0.6, 0, 100, "exponent for diounms")
    map: str | None = declare(Text(), None, "file that maps classes to others")
    embedding_layer: int | None = reference("tracking")
    track_history_size: int = integer(5, 0, 10**6, "tracking")
    sim_thresh: float = real(0.8, 0, 10, "tracking")
    dets_for_track: int = integer(1, 0, 10**6, "tracking")
    dets_for_show: int = integer(1, 0, 10**6, "tracking")
    track_ciou_norm: float = real(0.01, 0, BIG, "tracking")

    def __post_init__(self) -> None:
        mask = tuple(range(self.num)) if self.mask is None else self.mask
        anchors = ((0.5, 0.5),) * self.num if self.anchors is None else self.anchors
        # Darknet reads num pairs and drops the rest; where the mask goes beyond num it reads past its array, we do not.
        used = max(self.num, max(mask) + 1)
        self._derive(mask=mask, anchors=anchors[:used], num=min(used, max(self.num, len(anchors))))

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.anchors) != self.num:
            yield "anchors", f"wanted num={self.num} pairs, got {len(self.anchors)}"
        if max(self.mask) >= len(self.anchors):
            yield "mask", f"wanted anchors from 0 to {len(self.anchors) - 1}"
        if self.counters_per_class is not None and len(self.counters_per_class) != self.classes:
            yield "counters_per_class", f"wanted one for each of the {self.classes} classes"

    def remarks(self) -> Iterator[tuple[str, str]]:
        if "anchors" in self.given and min(min(pair) for pair in self.anchors) < 1:
            yield "anchors", "an anchor below one pixel: a number is missing, or two have run together"

    def filters_before(self, classes: int) -> int:
        """The filters of the convolution before this head: x, y, w, h, objectness and classes of each anchor."""
        return len(self.mask) * (5 + classes)


@dataclass(frozen=True, kw_only=True)
class GaussianYolo(Yolo):
    """``[Gaussian_yolo]``: a head that also predicts the uncertainty of x, y, w and h."""

    kind = "Gaussian_yolo"
    ignored = ()

    uc_normalizer: float = real(1.0, 0, BIG, "weight of the uncertainty")
    yolo_point: str = word("center", ("center", "left_top", "right_bottom"))

    def filters_before(self, classes: int) -> int:
        """As in [yolo], with four uncertainties more for each anchor."""
        return len(self.mask) * (9 + classes)


@dataclass(frozen=True, kw_only=True)
class Region(Section):
    """``[region]``: YOLOv2's head; anchors in cells."""

    kind = "region"

    classes: int = integer(20, 1, _CLASSES)
    num: int = integer(1, 1, 1024, "anchors")
    anchors: tuple[tuple[float, float], ...] = declare(Pairs(Real(1e-6, BIG)), None, "(w, h), cells")
    coords: int = integer(4, 4, 64, "x, y, w, h; what stands beyond is not used")
    background: bool = switch("nothing is a class of the softmax; there is no objectness")
    softmax: bool = switch("softmax over the classes, not logistic")
    tree: str | None = declare(Text(), None, "file of a class hierarchy")
    map: str | None = declare(Text(), None, "file that maps classes to others")
    max: int = integer(200, 1, 10**6, "truth boxes an image may have")
    jitter: float = real(0.2, 0, 10)
    resize: float = real(1.0, 0.01, 100)
    random: float = real(0.0, 0, 100, "multi-scale; 1 means 1.4")
    rescore: bool = switch("objectness learns the IoU")
    thresh: float = real(0.5, 0, 10, "no objectness loss above this IoU")
    bias_match: bool = switch("choose anchors by shape")
    absolute: bool = switch("no effect")
    classfix: int = integer(0, -1, 2, "above thresh: 1, 2 learn the class too; -1 learns objectness = IoU everywhere")
    log: bool = switch("no effect")
    sqrt: bool = switch("no effect")
    focal_loss: bool = switch("for classes")
    coord_scale: float = real(1.0, 0, BIG, "weight of the box")
    object_scale: float = real(1.0, 0, BIG, "weight of objectness where there is an object")
    noobject_scale: float = real(1.0, 0, BIG, "weight of objectness elsewhere")
    class_scale: float = real(1.0, 0, BIG, "weight of the classes")
    mask_scale: float = real(1.0, 0, BIG, "no effect")
    counters_per_class: tuple[int, ...] | None = declare(Items(Integer(0, 2**31 - 1)), None, "ours")

    def __post_init__(self) -> None:
        anchors = ((0.5, 0.5),) * self.num if self.anchors is None else self.anchors
        self._derive(anchors=anchors[: self.num])

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(self.anchors) != self.num:
            yield "anchors", f"wanted num={self.num} pairs, got {len(self.anchors)}"
        if self.background and (self.tree or not self.softmax):
            yield "background", "wanted softmax=1 with it, and no tree"
        if self.counters_per_class is not None and len(self.counters_per_class) != self.classes:
            yield "counters_per_class", f"wanted one for each of the {self.classes} classes"

    def filters_before(self, classes: int) -> int:
        """The filters of the convolution before this head: coordinates, objectness and classes of each anchor."""
        return self.num * (self.coords + 1 + classes)


@dataclass(frozen=True, kw_only=True)
class Contrastive(Section):
    """``[contrastive]``: pulls embeddings of the same object together."""

    kind = "contrastive"

    classes: int = integer(1000, 1, _CLASSES)
    temperature: float = real(1.0, 0.000001, BIG)
    yolo_layer: int | None = reference("the head that knows the objects")
    cls_normalizer: float = real(1.0, 0, BIG)
    max_delta: float = real(math.inf, 0, BIG)
    contrastive_neg_max: int = integer(3, 0, 10**6)
