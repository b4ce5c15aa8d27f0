"""Recipes: named sets of train.py's flags and cfg keys that belong together. What is given by hand wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """What ``--recipe NAME`` stands for.

    Attributes:
        flags: values of flags of train.py, by their name in its namespace; None leaves a choice to the cfg, or to
            `training.schedule.regime`.
        keys: cfg keys, spelt as ``--set`` wants them.
    """

    flags: Mapping[str, object]
    keys: Mapping[str, str] = field(default_factory=dict)


_DARKNET = {
    "loss": "darknet",
    "optimizer": "cfg",
    "clip_gradient": 0.0,
    "precise_bn": 0,
    "nominal_batch": 0,
    "mosaic": None,
    "mixup": None,
    "copy_paste": 0.0,
    "close_mosaic": 0.1,
    "close_jitter": 0.0,
    "scale": 0.0,
    "translate": 0.0,
    "shear": 0.0,
    "class_weights": None,
}

_BY_DEPTH = {"optimizer": None, "clip_gradient": None, "precise_bn": None}  # training.schedule.regime chooses

RECIPES = {
    # Darknet's images and loss; the optimiser's too, where the network is not deep or the images are many
    "auto": Recipe({**_DARKNET, **_BY_DEPTH}),
    "darknet": Recipe(_DARKNET),
    # Darknet's, with more weight for boxes and for rare classes; benchmarks/results/recipes.md
    "balanced": Recipe(
        {**_DARKNET, **_BY_DEPTH, "class_weights": "auto", "close_jitter": 0.15},
        {
            "yolo.iou_normalizer": "0.15",  # twice yolov4's; more than .2 diverges
            "yolo.max_delta": "3.5",  # no box moves the network more than a rare class may weigh
            "yolo.iou_thresh": "0.35",  # every anchor that overlaps a box so much learns it, not the best alone
        },
    ),
    # Scaled-YOLOv4 (arXiv 2011.08036) as its authors train it
    "scaled": Recipe(
        {
            "loss": "scaled",
            "optimizer": "nesterov",
            "clip_gradient": None,
            "precise_bn": None,
            "nominal_batch": 64,
            "mosaic": 1.0,
            "mixup": 0.0,
            "copy_paste": 0.0,
            "close_mosaic": 0.1,
            "close_jitter": 0.0,
            "scale": 0.5,
            "translate": 0.1,
            "shear": 0.0,
            "class_weights": None,
        },
        {
            "learning_rate": "0.01",
            "learning_rate_min": "0.0001",
            "policy": "sgdr",  # one cycle of max_batches: a cosine
            "power": "1",  # a straight warm-up
            "momentum": "0.937",
            "decay": "0.0005",
            "yolo.scale_x_y": "2",  # without it a cell's neighbours cannot learn its boxes
            "yolo.jitter": "0",  # scale and translate take its place
            "yolo.resize": "1",
        },
    ),
}
