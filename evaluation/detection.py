"""Detectors measured: a network over every image of a data set, and the metrics of what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.formats.dataset import Dataset, load_dataset
from data.loading.batch_loader import Loading
from data.loading.detection import eval_loader
from evaluation.box_table import BoxTable, detection_table, truth_table
from evaluation.coco import CocoMetrics, evaluate_tables
from evaluation.darknet_map import DarknetMap, ProposalRecall, darknet_map, proposal_recall
from evaluation.flags import EvalFlags
from evaluation.protocols import PROTOCOLS
from evaluation.speed import Speed, Stopwatch, progress_bar, speed_of
from models.darknet import Darknet
from models.postprocess import postprocess
from utils.device import autocast
from utils.distributed import ALONE, World
from utils.errors import UsageError
from utils.names import read_names
from utils.structures import Detections, Letterbox, Size

COCO = PROTOCOLS["coco"]

Metrics = CocoMetrics | DarknetMap | ProposalRecall
Measure = Callable[[Sequence[int], BoxTable, BoxTable, Sequence[str]], Metrics]  # image ids, truth, detections, names


@dataclass(frozen=True)
class Settings:
    """How a network is run before it is measured; as COCO measures, where nothing else is said.

    Attributes:
        size: input (H, W); None: the network's.
        batch: images at a time.
        precision: what autocast computes in; float32 leaves the network as it is.
        workers: loading processes.
        letterbox: keep the aspect ratio and pad, or stretch; None: what the cfg says.
        max_detections: the best so many of an image count.
        clip, by_objectness: as ``postprocess``.
    """

    size: Size | None = None
    batch: int = 8
    device: torch.device | str = "cpu"
    precision: torch.dtype = torch.float32
    workers: int = 2
    letterbox: bool | None = None
    score_threshold: float = COCO.score_threshold
    nms_threshold: float = COCO.nms_threshold
    max_detections: int | None = COCO.max_detections
    clip: bool = COCO.clip
    by_objectness: bool = COCO.by_objectness


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_network`` finds: metrics, speed, and the detections by image id."""

    metrics: Metrics
    speed: Speed
    detections: dict[int, Detections]


def evaluate_network(
    network: Darknet,
    dataset: Dataset,
    settings: Settings = Settings(),
    *,
    measure: Measure = evaluate_tables,
    progress: bool = True,
    world: World = ALONE,
) -> Evaluation:
    """Run ``network`` over every image of ``dataset`` once and measure what it finds.

    Args:
        measure: what the metrics are computed by.
        progress: show a bar with the time left, where the output is a terminal.
        world: the processes among which the images are shared; each gets the whole evaluation.

    The network is left in the mode, training or evaluation, it came in.
    """
    shares = world.gather(detect_share(network, dataset, settings, progress=progress, world=world))
    image_ids = [record.image_id for record in dataset.records]
    detections = in_order(image_ids, [found for found, _ in shares])
    metrics = world.on_main(
        lambda: measure(image_ids, truth_table(dataset.records), detection_table(detections), dataset.names)
    )
    return Evaluation(metrics, speed_of([spent for _, spent in shares], len(dataset)), detections)


def detect_share(
    network: Darknet, dataset: Dataset, settings: Settings, *, progress: bool, world: World
) -> tuple[dict[int, Detections], dict[str, float]]:
    """Run ``network`` over this process's share of the images.

    Returns:
        The detections by image id, and the seconds spent in each stage.
    """
    found: dict[int, Detections] = {}
    clock = Stopwatch(torch.device(settings.device))
    training = network.training
    network.eval()
    loader = _share_of(dataset, network, settings, world)
    with torch.inference_mode(), progress_bar(len(dataset), shown=progress and world.is_main) as bar:
        for images, letterboxes, records in loader:
            images = images.to(settings.device, non_blocking=True)
            clock.lap("loading")
            with autocast(images.device, settings.precision):
                raws = network(images)
            clock.lap("network")
            detections = _kept(raws, network, letterboxes, settings)
            found.update((record.image_id, to_cpu(one)) for record, one in zip(records, detections, strict=True))
            clock.lap("postprocess")
            bar.update(world.size * len(records))
    network.train(training)
    return found, clock.spent


def _share_of(dataset: Dataset, network: Darknet, settings: Settings, world: World) -> DataLoader:
    """The mini-batches of ``dataset`` that this process looks at."""
    return eval_loader(
        dataset,
        batch=settings.batch,
        size=network.size if settings.size is None else settings.size,
        letterbox=network.config.net.letter_box if settings.letterbox is None else settings.letterbox,
        loading=Loading(
            settings.workers,
            pin_memory=torch.device(settings.device).type == "cuda",
            rank=world.rank,
            ranks=world.size,
        ),
    )


def _kept(
    raws: Sequence[Tensor], network: Darknet, letterboxes: Sequence[Letterbox], settings: Settings
) -> list[Detections]:
    """What counts of the raw heads of a mini-batch."""
    return postprocess(
        raws,
        network.heads,
        letterboxes,
        score_threshold=settings.score_threshold,
        nms_threshold=settings.nms_threshold,
        max_detections=settings.max_detections,
        clip=settings.clip,
        by_objectness=settings.by_objectness,
    )


def in_order(image_ids: Sequence[int], shares: Sequence[Mapping[int, Detections]]) -> dict[int, Detections]:
    """The detections of all processes by image id, in the order of ``image_ids``."""
    found = {image_id: detections for share in shares for image_id, detections in share.items()}
    return {image_id: found[image_id] for image_id in image_ids}


def to_cpu(detections: Detections) -> Detections:
    """A copy in main memory, so that a GPU holds one batch and not the data set."""
    return Detections(detections.boxes.cpu(), detections.scores.cpu(), detections.labels.cpu())


# --- as the flags of eval.py say ----------------------------------------------------------------------------------


def settings_of(args: EvalFlags, device: torch.device) -> Settings:
    """How the flags of eval.py have a network run, at its own size."""
    protocol = PROTOCOLS[args.protocol]
    return Settings(
        batch=args.batch,
        device=device,
        workers=args.workers,
        letterbox=args.letterbox,
        score_threshold=args.score_threshold,
        nms_threshold=args.nms_threshold,
        max_detections=args.max_detections,
        clip=protocol.clip,
        by_objectness=protocol.by_objectness,
    )


def measure_of(args: EvalFlags) -> Measure:
    """How ``--protocol`` measures."""
    if args.protocol == "darknet":
        iou, confidence = args.iou_threshold, args.conf_threshold
        return partial(darknet_map, points=args.points, iou_threshold=iou, conf_threshold=confidence)
    if args.protocol == "recall":
        return partial(proposal_recall, iou_threshold=args.iou_threshold)
    return partial(evaluate_tables, backend=args.backend)


def load_classes(args: EvalFlags, network: Darknet) -> Dataset:
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
