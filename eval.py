"""Measure a network on a data set, as COCO or Darknet does.

python eval.py --cfg yolov4.cfg --weights yolov4.weights --data coco/                    AP50, AP, every class, speed
python eval.py --cfg yolov4.cfg --weights yolov4.weights --data coco/ --protocol darknet  mAP@0.5 as `detector map`
python eval.py --weights best.pt --data my.yaml --plots plots                            and pictures of what went wrong
python eval.py --data coco/annotations/instances_val2017.json --results detections.json  results of any detector
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be measured is refused before the imports below: torch takes seconds
    from models.preview import preview_evaluation
    from utils import cli

    cli.attempt(preview_evaluation)

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.formats.dataset import Dataset, load_dataset
from data.loading.detection import eval_loader
from evaluation.box_table import BoxTable, detection_table, truth_table
from evaluation.coco import CocoMetrics, coco_results, evaluate_tables
from evaluation.coco_files import read_tables
from evaluation.confusion import confusion_matrix, match_images
from evaluation.darknet_map import DarknetMap, ProposalRecall, darknet_map, proposal_recall
from evaluation.flags import PROTOCOLS, parse_eval_flags
from evaluation.plots import plot_confusion, plot_mistakes, plot_precision_recall, worst_images
from evaluation.speed import Speed, Stopwatch, speed_of
from evaluation.voc_results import save_voc_results
from models import describe_network, load_network
from models.darknet import Darknet
from models.postprocess import postprocess
from utils import cli
from utils.atomic import write_json
from utils.cfg import with_size
from utils.cfg.classifier import is_classifier
from utils.device import autocast
from utils.distributed import ALONE, World, join_world
from utils.errors import UsageError
from utils.image import read_image
from utils.names import read_names
from utils.structures import Detections, Size

COCO = PROTOCOLS["coco"]
WORST = 12  # images drawn by --plots

Metrics = CocoMetrics | DarknetMap | ProposalRecall
Measure = Callable[[Sequence[int], BoxTable, BoxTable, Sequence[str]], Metrics]  # image ids, truth, detections, names


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_network`` finds: metrics, speed, and the detections by image id."""

    metrics: Metrics
    speed: Speed
    detections: dict[int, Detections]


def main(argv: Sequence[str]) -> None:
    """Run an evaluation from its flags to its table."""
    args = parse_eval_flags(argv)
    with join_world() as world:
        run(args, world)


def run(args: argparse.Namespace, world: World) -> None:
    """Run the evaluation ``args`` ask for; the processes of ``world`` share the images."""
    for path in (args.json, args.save_results):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
    if args.results is not None:
        if not world.is_main:
            return
        metrics = measure_of(args)(*read_tables(truth_file(args), args.results))
        print(*metrics.lines(), sep="\n")
        if args.json is not None:
            write_json(args.json, metrics.as_dict())
        return
    device = world.device(args.device)
    config, own_names = describe_network(args.cfg, args.weights)
    if args.size is not None:
        config = with_size(config, args.size)
    if is_classifier(config):
        import classify  # late: it is made of parts of this script

        world.refuse("a classifier is measured")
        classify.measure_from_flags(args, config, own_names)
        return
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    dataset, protocol = load_classes(args, network), PROTOCOLS[args.protocol]
    evaluation = evaluate_network(
        network,
        dataset,
        size=network.size,
        batch=args.batch,
        device=device,
        workers=args.workers,
        letterbox=config.net.letter_box if args.letterbox is None else args.letterbox,
        score_threshold=args.score_threshold,
        nms_threshold=args.nms_threshold,
        max_detections=args.max_detections,
        clip=protocol.clip,
        by_objectness=protocol.by_objectness,
        measure=measure_of(args),
        world=world,
    )
    if not world.is_main:
        return
    print_evaluation(evaluation)
    if args.json is not None:
        write_json(args.json, summary(evaluation, args))
    if args.save_results is not None:
        write_json(args.save_results, coco_results(evaluation.detections, dataset.category_ids))
    if args.save_voc is not None:
        save_voc_results(args.save_voc, dataset.records, evaluation.detections, dataset.names)
    if args.plots is not None:
        save_plots(evaluation, dataset, args.plots)


def measure_of(args: argparse.Namespace) -> Measure:
    """How ``--protocol`` measures."""
    if args.protocol == "darknet":
        thresholds = {"iou_threshold": args.iou_threshold, "conf_threshold": args.conf_threshold}
        return partial(darknet_map, points=args.points, **thresholds)
    if args.protocol == "recall":
        return partial(proposal_recall, iou_threshold=args.iou_threshold)
    return partial(evaluate_tables, backend=args.backend)


def evaluate_network(
    network: Darknet,
    dataset: Dataset,
    *,
    size: Size,
    batch: int = 8,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    workers: int = 2,
    letterbox: bool = False,
    score_threshold: float = COCO.score_threshold,
    nms_threshold: float = COCO.nms_threshold,
    max_detections: int | None = COCO.max_detections,
    clip: bool = COCO.clip,
    by_objectness: bool = COCO.by_objectness,
    measure: Measure = evaluate_tables,
    progress: bool = True,
    world: World = ALONE,
) -> Evaluation:
    """Run ``network`` over every image of ``dataset`` once and measure what it finds.

    Args:
        size: input (H, W).
        precision: what autocast computes in; float32 leaves the network as it is.
        letterbox: keep the aspect ratio and pad; else stretch, Darknet's default.
        max_detections: the best so many of an image count.
        clip, by_objectness: as ``postprocess``.
        measure: what the metrics are computed by.
        progress: show a bar with the time left, where the output is a terminal.
        world: the processes among which the images are shared; each gets the whole evaluation.

    The network is left in the mode, training or evaluation, it came in.
    """
    detections: dict[int, Detections] = {}
    spent = dict.fromkeys(("loading", "network", "postprocess"), 0.0)
    clock = Stopwatch(torch.device(device))
    training = network.training
    network.eval()
    on_gpu = torch.device(device).type == "cuda"
    loader = eval_loader(
        dataset,
        batch=batch,
        size=size,
        letterbox=letterbox,
        workers=workers,
        pin_memory=on_gpu,
        rank=world.rank,
        ranks=world.size,
    )
    silent = None if progress and world.is_main else True
    with (
        torch.inference_mode(),
        tqdm(total=len(dataset), unit="image", desc="evaluating", leave=False, disable=silent) as bar,
    ):
        for images, letterboxes, records in loader:
            images = images.to(device, non_blocking=True)
            spent["loading"] += clock.lap()
            with autocast(images.device, precision):
                raws = network(images)
            spent["network"] += clock.lap()
            found = postprocess(
                raws,
                network.heads,
                letterboxes,
                score_threshold=score_threshold,
                nms_threshold=nms_threshold,
                max_detections=max_detections,
                clip=clip,
                by_objectness=by_objectness,
            )
            detections.update((record.image_id, to_cpu(one)) for record, one in zip(records, found, strict=True))
            spent["postprocess"] += clock.lap()
            bar.update(world.size * len(records))
    network.train(training)
    image_ids = [record.image_id for record in dataset.records]
    shares = world.gather((detections, spent))
    detections = in_order(image_ids, [share for share, _ in shares])
    metrics = world.on_main(
        lambda: measure(image_ids, truth_table(dataset.records), detection_table(detections), dataset.names)
    )
    return Evaluation(metrics, speed_of([seconds for _, seconds in shares], len(dataset)), detections)


def in_order(image_ids: Sequence[int], shares: Sequence[Mapping[int, Detections]]) -> dict[int, Detections]:
    """The detections of all processes by image id, in the order of ``image_ids``."""
    found = {image_id: detections for share in shares for image_id, detections in share.items()}
    return {image_id: found[image_id] for image_id in image_ids}


def to_cpu(detections: Detections) -> Detections:
    """A copy in main memory, so that a GPU holds one batch and not the data set."""
    return Detections(detections.boxes.cpu(), detections.scores.cpu(), detections.labels.cpu())


def print_evaluation(evaluation: Evaluation) -> None:
    """Print metrics and speed for people."""
    print(*evaluation.metrics.lines(), sep="\n")
    speed = evaluation.speed
    print(
        f"\nper image: loading {speed.loading:.1f} ms, network {speed.network:.1f} ms, "
        f"post-processing {speed.postprocess:.1f} ms; {speed.images_per_second:.1f} images/s"
    )


def summary(evaluation: Evaluation, args: argparse.Namespace) -> dict[str, Any]:
    """The flat object of ``--json``."""
    return {
        **evaluation.metrics.as_dict(),
        "images": len(evaluation.detections),
        "images_per_second": evaluation.speed.images_per_second,
        "score_threshold": args.score_threshold,
        "nms_threshold": args.nms_threshold,
        "max_detections": args.max_detections,
    }


def save_plots(evaluation: Evaluation, dataset: Dataset, folder: Path) -> None:
    """Write precision_recall.png, confusion.png and the images with most mistakes, worst_01.png first."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_precision_recall(evaluation.metrics, folder / "precision_recall.png")
    matches = match_images(dataset.records, evaluation.detections)
    plot_confusion(confusion_matrix(matches, len(dataset.names)), dataset.names, folder / "confusion.png")
    for rank, image in enumerate(worst_images(matches, WORST), start=1):
        plot_mistakes(image, read_image(image.record.path), dataset.names, folder / f"worst_{rank:02}.png")
    print(f"plots: {folder}")


def load_classes(args: argparse.Namespace, network: Darknet) -> Dataset:
    """The data set of ``--data``, with as many classes as the network.

    Raises:
        UsageError: the two do not belong together.
    """
    if not network.heads:
        raise UsageError(f"--cfg {network.config.source}: a network without [yolo] sections detects nothing")
    names = None if args.names is None else read_names(args.names, classes=network.num_classes)
    dataset = load_dataset(args.data, args.split, names=names)
    if len(dataset.names) != network.num_classes:
        raise UsageError(
            f"--data {args.data}: {len(dataset.names)} classes, {network.config.source} has {network.num_classes}; "
            "give the cfg and weights trained for this data"
        )
    return dataset


def truth_file(args: argparse.Namespace) -> Path:
    """The COCO annotations ``--results`` is measured against: ``--data`` itself, or its file for the split."""
    given = Path(args.data)
    if given.suffix == ".json":
        return given
    source = Path(load_dataset(args.data, args.split).source)
    if source.suffix != ".json":
        raise UsageError(f"--results: needs COCO annotations with image ids, --data {args.data} has none")
    return source


if __name__ == "__main__":
    cli.run(main)
