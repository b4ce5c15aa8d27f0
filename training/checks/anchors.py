"""Whether the heads of a cfg suit the boxes of a data set: anchors and strides against box sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.anchors import anchors_of, count_anchors, head_anchors
from training.checks.findings import Finding
from utils.anchors import anchor_fit, fit_anchors, wh_iou
from utils.cfg import Config

_BETTER = 0.1  # so much more recall is worth other anchors
_SMALL = 0.5  # of the finest cell's side; a smaller box leaves little in the features the head reads
_TOO_MANY = 0.15  # of the boxes
_FINE = 8  # stride of the finest grid of Darknet's large detectors
_BOXES = 4000  # that anchors are fitted to; the fit is a comparison, not the one to be used
_RESTARTS = 3


def head_lines(config: Config, wh: np.ndarray) -> Iterator[str]:
    """For people: how large the boxes are, and which head learns how many of them.

    Args:
        wh: (N, 2) box sizes, input pixels.
    """
    net, anchors = config.net, anchors_of(config)
    low, middle, high = np.quantile(np.sqrt(wh.prod(axis=1)), (0.05, 0.5, 0.95))
    fit = anchor_fit(wh, anchors)
    yield (
        f"{len(wh):,} boxes in an input of {net.width}x{net.height}: side {middle:.0f} pixels in the middle, "
        f"{low:.0f} to {high:.0f} for nine tenths"
    )
    yield f"{len(anchors)} anchors: average IoU {fit.average_iou:.2f}, recall {fit.recall:.2f} (boxes above IoU 0.5)"
    best = wh_iou(wh, anchors).argmax(axis=1)
    for head, rows in zip(head_anchors(config), _rows(config), strict=True):
        yield f"head of stride {head.stride:2.0f} learns {np.isin(best, rows).mean():4.0%} of the boxes"
    if sum(map(len, _rows(config))) > len(anchors):
        yield "boxes of an anchor that several heads have are learned by each of them"


def head_rows(config: Config) -> list[list[int]]:
    """Which of `models.anchors.anchors_of` each head uses, the finest grid first; one of several is the first's."""
    taken: set[int] = set()
    return [
        [row for row in rows if not (row in taken or taken.add(row))]  # type: ignore[func-returns-value]
        for rows in _rows(config)
    ]


def _rows(config: Config) -> list[list[int]]:
    anchors = anchors_of(config)
    return [
        (anchors[:, None] == head.anchors).all(axis=2).any(axis=1).nonzero()[0].tolist()
        for head in head_anchors(config)
    ]


def anchor_findings(config: Config, wh: np.ndarray, *, fix: str) -> Iterator[Finding]:
    """Anchors far from the boxes, and boxes too small for the grid.

    Args:
        wh: (N, 2) box sizes, input pixels.
        fix: the command that fits anchors.
    """
    rng = np.random.default_rng(0)
    some = wh if len(wh) <= _BOXES else rng.choice(wh, _BOXES, replace=False)
    count = count_anchors(config)
    now = anchor_fit(some, anchors_of(config)).recall
    if len(np.unique(some, axis=0)) >= count:
        fitted = anchor_fit(some, fit_anchors(some, count, rng, restarts=_RESTARTS)).recall
        if fitted - now > _BETTER:
            yield Finding(
                "warning",
                f"the anchors of {config.source} reach {now:.0%} of the boxes with an IoU above 0.5, "
                f"anchors fitted to your boxes {fitted:.0%}",
                fix,
            )
    yield from _small_boxes(config, some)


def _small_boxes(config: Config, wh: np.ndarray) -> Iterator[Finding]:
    strides = [head.stride for head in head_anchors(config)]
    side, stride = np.sqrt(wh.prod(axis=1)), min(strides)
    small = float((side < _SMALL * stride).mean())
    if small <= _TOO_MANY:
        return
    factor = _SMALL * stride / max(np.quantile(side, _TOO_MANY), 1e-6)
    net, step = config.net, max(strides)
    height, width = (int(np.ceil(length * factor / step) * step) for length in (net.height, net.width))
    if factor <= 2:
        fix = f"a larger input: --size {width if width == height else f'{height}x{width}'}"
    else:
        fix = "cut the images into tiles, so that the objects are larger in the network's input"
    if stride > _FINE:
        fix += f"; or a cfg with a finer head, such as yolov4.cfg (stride {_FINE} instead of {stride:g})"
    yield Finding(
        "warning",
        f"{small:.0%} of the boxes are smaller than {_SMALL * stride:g} pixels in an input of "
        f"{net.width}x{net.height}, half a cell of the finest grid",
        fix,
    )
