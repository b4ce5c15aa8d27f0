"""AP of a trained network by eval.py's pre- and post-processing, and by a transcription of Darknet's.

python -m benchmarks.darknet_parity --cfg nano.cfg --weights nano.weights --data coco/ --images 500

Both use the same network, thresholds and truth. The transcription (tests/reference/darknet_detector.py) is written
loop by loop in numpy, and its boxes are measured by pycocotools as `darknet detector valid` writes them: all that
exceed the score threshold, while eval.py takes the best 1,000 of an image.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from benchmarks.tables import RESULTS, Report, table
from data.formats.dataset import Dataset, load_dataset
from evaluation.detection import Settings, evaluate_network
from evaluation.protocols import PROTOCOLS
from models import load_network
from models.darknet import Darknet
from tests.reference import darknet_detector as reference
from utils.image import read_image

ALLOWED = 0.003  # AP
COCO_PROTOCOL = PROTOCOLS["coco"]  # the thresholds of eval.py


@dataclass(frozen=True)
class Measured:
    """AP over IoU .50:.95 and at .50, and how many boxes were found."""

    ap: float
    ap50: float
    boxes: int


@dataclass(frozen=True)
class Comparison:
    """One network measured both ways."""

    images: int
    ours: Measured
    darknet: Measured


def compare(
    cfg: Path,
    weights: Path,
    data: Path,
    *,
    images: int | None = None,
    letterbox: bool = False,
    max_detections: int | None = COCO_PROTOCOL.max_detections,
) -> Comparison:
    """Measure a network both ways on the first ``images`` images of the validation split.

    Args:
        max_detections: eval.py's limit for an image; on few images it shows, as Darknet has none.
    """
    network = load_network(cfg, weights)
    dataset = load_dataset(data, "val")
    dataset = dataclasses.replace(dataset, records=dataset.records[:images])
    settings = Settings(workers=0, letterbox=letterbox, max_detections=max_detections)
    found = evaluate_network(network, dataset, settings, progress=False)
    count = sum(len(one) for one in found.detections.values())
    ours = Measured(found.metrics.ap, found.metrics.ap50, count)
    rows = list(all_rows(network, dataset, letterbox=letterbox))
    return Comparison(len(dataset), ours, by_pycocotools(rows, dataset))


def all_rows(network: Darknet, dataset: Dataset, *, letterbox: bool) -> Iterator[dict]:
    """Darknet's boxes of every image, in COCO's results format."""
    place = reference.letterbox_image if letterbox else reference.resize_image
    height, width = network.size
    for record in dataset.records:
        pixels = np.ascontiguousarray(read_image(record.path).transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
        with torch.inference_mode():
            raws = network(torch.from_numpy(place(pixels, width, height))[None])
        for row in darknet_rows(raws, network, (pixels.shape[2], pixels.shape[1]), letterbox=letterbox):
            category = dataset.category_ids[row["category_id"]]
            yield {**row, "image_id": record.image_id, "category_id": category}


def darknet_rows(
    raws: Sequence[Tensor],
    network: Darknet,
    image_size: tuple[int, int],
    *,
    letterbox: bool,
    threshold: float = COCO_PROTOCOL.score_threshold,
    nms: float = COCO_PROTOCOL.nms_threshold,
) -> list[dict]:
    """Darknet's boxes of one image of ``image_size`` (width, height); ``category_id`` is the label."""
    net_size = (network.size[1], network.size[0])
    found = []
    for head, raw in zip(network.heads, raws, strict=True):
        found += reference.yolo_detections(raw[0].numpy(), head.section, net_size, threshold)
    reference.correct_boxes(found, image_size, net_size, letter=letterbox)
    last = network.heads[-1].section
    reference.suppress(found, last.classes, nms, last.nms_kind, last.beta_nms)
    return reference.coco_rows(found, 0, image_size, tuple(range(last.classes)))


def by_pycocotools(rows: list[dict], dataset: Dataset) -> Measured:
    """COCO's own evaluation of the results, as a user of ``valid`` would run it on the annotation file."""
    ids = [record.image_id for record in dataset.records]
    with contextlib.redirect_stdout(io.StringIO()), tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        truth = COCO(dataset.source)
        evaluation = COCOeval(truth, truth.loadRes(file.name), "bbox")
        evaluation.params.imgIds = ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return Measured(float(evaluation.stats[0]), float(evaluation.stats[1]), len(rows))


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, write the table, fail where the two differ by more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cfg", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path, default=RESULTS / "darknet_parity.md")
    args = parser.parse_args(argv)
    report = Report(args.out, "AP by our pre- and post-processing and by a transcription of Darknet's")
    rows, worst = [], 0.0
    for name, letterbox in (("stretched", False), ("letterboxed", True)):
        start = time.perf_counter()
        result = compare(args.cfg, args.weights, args.data, images=args.images, letterbox=letterbox)
        worst = max(worst, abs(result.ours.ap - result.darknet.ap), abs(result.ours.ap50 - result.darknet.ap50))
        for who, one in (("eval.py", result.ours), ("Darknet's steps", result.darknet)):
            rows.append([args.cfg.stem, name, result.images, who, f"{one.ap:.4f}", f"{one.ap50:.4f}", one.boxes])
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    header = ("network", "input", "images", "by", "AP", "AP50", "boxes")
    report.add(table(header, rows) + f"\nLargest difference {worst:.4f} (allowed {ALLOWED}).\n")
    if worst > ALLOWED:
        raise SystemExit(f"the two differ by {worst:.4f} AP (wanted at most {ALLOWED})")


if __name__ == "__main__":
    main()
