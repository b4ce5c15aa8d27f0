"""Classifiers measured: how often the right class is the first guess or among five, and how fast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.formats.class_folders import load_labelled
from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.classification import central_batches
from evaluation.flags import BOXES_ONLY, EvalFlags
from evaluation.speed import Speed, Stopwatch, progress_bar, speed_of
from evaluation.topk import TopK, TopKCounter
from models import load_network
from models.darknet import Darknet
from utils.atomic import write_json
from utils.cfg import Config
from utils.cli import ABOUT_BOXES, refuse
from utils.device import autocast
from utils.distributed import ALONE, World
from utils.names import check_names, read_names

EVAL_BATCH = 32


@dataclass(frozen=True)
class Measurement:
    """How often a network is right, and how fast."""

    top: TopK
    speed: Speed


def measure(
    network: Darknet,
    dataset: Dataset,
    *,
    batch: int = EVAL_BATCH,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    workers: int = 2,
    progress: bool = True,
    world: World = ALONE,
) -> Measurement:
    """Run ``network`` over the middle of every image of ``dataset`` once and count what it gets right.

    Args:
        precision: what autocast computes in; float32 leaves the network as it is.
        progress: show a bar with the time left, where the output is a terminal.
        world: the processes among which the images are shared; each gets the whole measurement.
    """
    counter, clock = TopKCounter(dataset.names), Stopwatch(torch.device(device))
    loading = Loading(workers, rank=world.rank, ranks=world.size)
    loader = central_batches(dataset, batch=batch, size=network.size, loading=loading)
    with torch.inference_mode(), progress_bar(len(dataset), shown=progress and world.is_main) as bar:
        for images, labels in loader:
            images = images.to(device, non_blocking=True)
            clock.lap("loading")
            with autocast(images.device, precision):
                (logits,) = network(images)
            clock.lap("network")
            counter.add(logits, labels)
            clock.lap("postprocess")
            bar.update(world.size * len(labels))
    shares = world.gather((counter.counts, clock.spent))
    whole = TopKCounter(dataset.names, [counts for counts, _ in shares])
    return Measurement(whole.result(), speed_of([spent for _, spent in shares], len(dataset)))


def measure_from_flags(
    args: EvalFlags, config: Config, own_names: Sequence[str] | None, device: torch.device, world: World
) -> None:
    """What eval.py does with a classifier: top-1, top-5, every class, speed.

    Args:
        args: the flags of eval.py.
        config: the network.
        own_names: the class names that came with the weights.
        world: the processes that share the images.
    """
    refuse(args, BOXES_ONLY, ABOUT_BOXES)
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    names = read_names(args.names, classes=network.num_classes) if args.names else own_names
    dataset = load_labelled(args.data, args.split, names=names)
    check_names(dataset.names, network.num_classes, source=f"--data {args.data}")
    found = measure(network, dataset, batch=args.batch, device=device, workers=args.workers, world=world)
    if not world.is_main:
        return
    print(*table(found), sep="\n")
    if args.json is not None:
        write_json(args.json, {**found.top.as_dict(), "images_per_second": found.speed.images_per_second})


def table(found: Measurement) -> list[str]:
    """The lines for people: every class, top-1 and top-5, speed."""
    top, speed = found.top, found.speed
    width = max(len("class"), *map(len, top.per_class))
    lines = [f"{'class':{width}}  images  top-1"]
    for name, one in top.per_class.items():
        lines.append(f"{name:{width}}  {one.images:6}  " + (f"{one.accuracy:5.3f}" if one.images else "    -"))
    lines += ["", f"top-1 {top.top1:.3f}  top-5 {top.top5:.3f}  of {top.images:,} images", ""]
    times = f"per image: loading {speed.loading:.1f} ms, network {speed.network:.1f} ms"
    return [*lines, f"{times}; {speed.images_per_second:.1f} images/s"]
