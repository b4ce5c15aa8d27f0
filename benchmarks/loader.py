"""How many training images a second the loader makes: ``python -m benchmarks.loader --data bccd coco_mini``.

Each way to load is measured with a mosaic in every image and with none: from the files, from the cache in memory and
from the cache on disk, in this process and in workers. A rate comes from the median time of a few mini-batches in a
row, so that a pause of the machine does not count. Where an image's time goes is processor time in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import cv2
import torch

from benchmarks.tables import RESULTS, Report, table
from data.augment.detection import Augmentation, last_head
from data.formats.dataset import Dataset, load_dataset
from data.loading.batch_loader import Loading
from data.loading.cache import open_cache
from data.loading.detection import train_loader
from data.loading.multi_scale import MultiScale
from data.loading.reader import ImageCache, SampleReader
from data.loading.stream import Stream
from utils import cli
from utils.cfg import load_cfg
from utils.structures import Batch

SOURCES = ("files", "memory", "disk")
STAGES = {  # what is timed: the stage's name, and the function as the one who calls it finds it
    "data.loading.detection.augmented_sample": "draws and the rest",
    "data.loading.reader.read_image": "read the file",
    "utils.image._decode_jpeg": "decode",
    "data.augment.transforms.paint": "geometry and colour",
    "data.augment.transforms.blur_and_noise": "blur and noise",
    "data.augment.transforms.place_boxes": "boxes",
    "data.loading.detection.TrainBatches._make": "collate",
}
MEASURES = ("measure", "data", "source", "mosaic", "ms_per_image", "images_per_second")


@dataclass(frozen=True)
class Setting:
    """What is measured, the same for all: images of a data set as a cfg augments them, at one size."""

    dataset: Dataset
    augmentation: Augmentation
    size: int
    batch: int

    def batches(self, mosaic: bool, cache: ImageCache | None, workers: int, count: int) -> Iterator[Batch]:
        """The first ``count`` mini-batches of a run with mosaics in all images or none."""
        size = (self.size, self.size)
        stream = Stream(self.batch, MultiScale(size), start=0, stop=count, seed=0, largest=size)
        augmentation = replace(self.augmentation, mosaic=float(mosaic))
        return iter(train_loader(self.dataset, augmentation, stream, Loading(workers), kept=cache))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write benchmarks/results/loader.md."""
    args = _parser().parse_args(argv)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    report = Report(args.out, "Loading of training images")
    report.add(_head(args))
    results = []
    for data in args.data:
        setting = _setting(data, args)
        name = Path(data).name
        rates, parts = [], []
        with tempfile.TemporaryDirectory() as folder:
            for source in args.sources:
                cache = filled_cache(source, setting.dataset, Path(folder))
                for mosaic in (True, False):
                    cost, stages = breakdown(setting, mosaic, cache, args.batches)
                    kind = "mosaic" if mosaic else "single"
                    parts.append((source, kind, *stages.values(), cost))
                    speeds = [speed(setting, mosaic, cache, workers, args.batches) for workers in args.workers]
                    rates.append((source, kind, *speeds))
                    results.append((name, source, kind, f"{cost:.2f}", round(max(speeds))))
        header = ("source", "mosaic", *(f"{workers} workers" for workers in args.workers))
        report.add(f"## {name}, images/s\n\n" + table(header, rates))
        stages = dict.fromkeys(STAGES.values())
        report.add(f"## {name}, ms of processor time an image\n\n" + table(("source", "mosaic", *stages, "all"), parts))
    report.add(_measures(args.measures, args.label, results))


def speed(setting: Setting, mosaic: bool, cache: ImageCache | None, workers: int, count: int) -> float:
    """Images a second: of the median time for ``2 * workers`` mini-batches in a row (1 without workers)."""
    group = max(1, 2 * workers)
    batches = setting.batches(mosaic, cache, workers, count + 2 * group)
    with contextlib.closing(batches):
        for _ in itertools.islice(batches, 2 * group):  # what prefetching made meanwhile, and starting
            pass
        times = [time.perf_counter(), *(time.perf_counter() for _ in batches)]
    spans = [end - start for start, end in zip(times[::group], times[group::group], strict=False)]
    return group * setting.batch / statistics.median(spans)


def breakdown(setting: Setting, mosaic: bool, cache: ImageCache | None, count: int) -> tuple[float, dict[str, float]]:
    """Milliseconds of processor time an image takes in this process: all, measured without looking, and by stages."""
    costs = [cost for cost, _ in _batch_costs(setting, mosaic, cache, count, Counter())]
    with stages_timed() as spent:
        parts = [part for _, part in _batch_costs(setting, mosaic, cache, count, spent)]
    names = dict.fromkeys(STAGES.values())
    return statistics.median(costs), {name: statistics.median(part[name] for part in parts) for name in names}


def _batch_costs(
    setting: Setting, mosaic: bool, cache: ImageCache | None, count: int, spent: Counter[str]
) -> Iterator[tuple[float, dict[str, float]]]:
    """For each mini-batch after the first: ms an image, and what ``spent`` grew by."""
    batches = setting.batches(mosaic, cache, 0, count + 1)
    next(batches)
    while True:
        spent.clear()
        start = time.process_time()
        if next(batches, None) is None:
            return
        cost = 1000 * (time.process_time() - start) / setting.batch
        yield cost, {name: 1000 * spent[name] / setting.batch for name in STAGES.values()}


@contextlib.contextmanager
def stages_timed() -> Iterator[Counter[str]]:
    """Time the stages while this lasts: seconds of processor time by name, each without the stages inside it."""
    spent: Counter[str] = Counter()
    inside = [0.0]  # what the stages within the running one took, innermost last

    def timed(function: Callable, stage: str) -> Callable:
        @functools.wraps(function)
        def wrapper(*args: object, **options: object) -> object:
            inside.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                taken = time.process_time() - start
                spent[stage] += taken - inside.pop()
                inside[-1] += taken

        return wrapper

    with contextlib.ExitStack() as stack:
        for target, stage in STAGES.items():
            patch = mock.patch(target)
            original, _ = patch.get_original()
            stack.enter_context(mock.patch(target, timed(original, stage)))
        yield spent


def filled_cache(source: str, dataset: Dataset, folder: Path) -> ImageCache | None:
    """The cache that ``source`` names with every image in it; None for the files."""
    if source == "files":
        return None
    cache, _ = open_cache(source, dataset, folder=folder)
    reader = SampleReader(dataset.records, cache)
    for index in range(len(reader)):
        reader[index]
    return cache


def _setting(data: str, args: argparse.Namespace) -> Setting:
    dataset = load_dataset(data, "train")
    config = load_cfg(args.cfg)
    augmentation = Augmentation.from_config(config.net, last_head(config))
    dataset = replace(dataset, records=dataset.records[: args.images])
    return Setting(dataset, augmentation, args.size, args.batch)


def _head(args: argparse.Namespace) -> str:
    return (
        f"Augmentation of {args.cfg} at {args.size} pixels, mini-batches of {args.batch}, the first {args.images} "
        f"images of each data set, every file read before. Medians over {args.batches} mini-batches.\n"
    )


def _measures(path: Path, label: str | None, results: Sequence[tuple]) -> str:
    """The table of what each measure brought; with a ``label`` these ``results`` become its last row."""
    rows = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    if label:
        rows += [dict(zip(MEASURES, (label, *result), strict=True)) for result in results]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, MEASURES)
            writer.writeheader()
            writer.writerows(rows)
    columns = list(dict.fromkeys((row["data"], row["source"], row["mosaic"]) for row in rows))
    found = {tuple(row[key] for key in MEASURES[:4]): row for row in rows}
    cells = []
    for measure in dict.fromkeys(row["measure"] for row in rows):
        row = [found.get((measure, *column)) for column in columns]
        cells.append((measure, *(one and f"{one['images_per_second']} ({one['ms_per_image']} ms)" for one in row)))
    text = "## Measure by measure\n\nImages/s, and the processor time of an image.\n\n"
    return text + table(("state", *map(", ".join, columns)), cells)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="loader.py", description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="what train.py --data takes")
    parser.add_argument("--cfg", default="yolov4.cfg", help="whose augmentation")
    parser.add_argument("--size", type=cli.positive_int, default=416)
    parser.add_argument("--batch", type=cli.positive_int, default=8)
    parser.add_argument("--images", type=cli.positive_int, default=400, help="of each data set, at most")
    parser.add_argument("--batches", type=cli.positive_int, default=24, help="measured for each number")
    parser.add_argument("--workers", type=cli.whole_number, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--label", help="add these numbers to the measures under this name")
    parser.add_argument("--measures", type=Path, default=RESULTS / "loader_measures.csv")
    parser.add_argument("--out", type=Path, default=RESULTS / "loader.md")
    return parser


if __name__ == "__main__":
    cli.run(main)
