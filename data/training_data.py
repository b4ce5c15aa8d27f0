"""The two sides of a training: images to learn from, images to measure on, and the mini-batches made of the former."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data.augment.affine import NO_MOTION, Affine
from data.augment.contrastive_views import Views
from data.augment.detection import Augmentation
from data.augment.photometric import load_photometric
from data.formats.dataset import Dataset, load_dataset
from data.loading.cache import open_cache
from data.loading.detection import train_loader
from data.loading.multi_scale import DynamicMinibatch, FixedMinibatch, MultiScale
from data.loading.rank_share import Share, check_divisible
from data.loading.reader import Detail
from data.sample import ensure_sample
from data.scan import scan
from utils.cfg import Config
from utils.cfg.heads import Region, Yolo
from utils.memory import available_memory
from utils.names import read_names
from utils.structures import Batch

_DARKNET_SCALES = 1.4  # what [yolo] random=1 stands for


def find_data(path: str | None) -> str:
    """The ``--data`` of a run: ``path``, or the built-in sample, drawn on first use."""
    if path is not None:
        return path
    sample = str(ensure_sample())
    print(f"no --data given: training on the built-in sample data set in {sample}")
    return sample


def load_splits(path: str, *, names: str | None, check: bool, workers: int) -> tuple[Dataset, Dataset]:
    """The training and the validation images.

    Args:
        path: what ``--data`` names.
        names: a file of class names to use in place of the data set's own.
        check: look at every image and box first; what cannot be used is printed and left out.
        workers: threads that do it.
    """
    given = read_names(names) if names else None
    train_set = load_dataset(Path(path), "train", names=given)
    val_set = load_dataset(Path(path), "val", names=train_set.names)
    if check:
        return _checked(train_set, workers), _checked(val_set, workers)
    return train_set, val_set


def _checked(dataset: Dataset, workers: int) -> Dataset:
    report = scan(dataset, workers=workers, progress=True)
    for line in report.lines():
        print(line)
    return report.dataset


def input_sizes(config: Config, seed: int) -> MultiScale:
    """The input size of each mini-batch, as the cfg's last head says."""
    net, random = config.net, _last_head(config).random
    return MultiScale(
        size=(net.height, net.width),
        factor=_DARKNET_SCALES if random == 1 else random or 1.0,
        step=net.resize_step,
        seed=seed,
        subdivisions=net.subdivisions,
        max_batches=net.max_batches,
    )


def _last_head(config: Config) -> Yolo | Region:
    """The section whose keys rule the augmentation of the whole network."""
    return next(section for section in reversed(config.layers) if isinstance(section, Yolo | Region))


def training_batches(
    dataset: Dataset,
    config: Config,
    *,
    start: int,
    seed: int,
    workers: int,
    mosaic: float | None = None,
    mixup: float | None = None,
    copy_paste: float = 0.0,
    flip_vertical: bool = False,
    close_mosaic: float = 0.0,
    close_jitter: float = 0.0,
    affine: Affine = NO_MOTION,
    photometric: str = "none",
    cache: str | None = None,
    rank: int = 0,
    ranks: int = 1,
    pin_memory: bool = False,
) -> Iterable[Batch]:
    """The mini-batches from iteration ``start`` to the cfg's last, each a pure function of the seed and its number.

    Args:
        mosaic, mixup: shares of mosaics and of mixed images; None is the cfg's.
        copy_paste: share of images that get objects of another.
        flip_vertical: turn half of the images upside down.
        close_mosaic: share of the run, at its end, without mosaic, mixup and copy-paste.
        close_jitter: share of the run, at its end, with whole images, that neither the cfg's keys nor ``affine`` move.
        affine: how each picture is moved.
        photometric: see `data.augment.photometric.load_photometric`.
        cache: see `data.loading.cache.open_cache`.
        rank, ranks: of several processes that train together, which this is: it gets its share of each mini-batch.
        pin_memory: put them where a GPU can fetch them while it computes.

    Raises:
        UsageError: a batch that does not divide among ``ranks``, or mini-batches too small for ``contrastive``.
    """
    net = config.net
    check_divisible(net, ranks)
    total = net.max_batches * net.subdivisions
    augmentation = Augmentation.from_config(
        net,
        _last_head(config),
        mosaic=mosaic,
        mixup=mixup,
        copy_paste=copy_paste,
        flip_vertical=flip_vertical,
        affine=affine,
        photometric=load_photometric(photometric),
        close_at=net.closing(close_mosaic),
        whole_at=net.closing(close_jitter),
    )
    sizes = input_sizes(config, seed)
    batch = net.batch // net.subdivisions
    positions = DynamicMinibatch(batch, sizes, total) if net.dynamic_minibatch else FixedMinibatch(batch)
    budget = available_memory() // ranks if cache == "memory" else None
    detail = Detail(augmentation.pixels_needed(sizes.largest))
    images, note = open_cache(cache, dataset, budget=budget, detail=detail)
    if note:
        print(note)
    return train_loader(
        dataset,
        augmentation,
        batch=batch,
        size_at=sizes,
        start=start * net.subdivisions,
        stop=total,
        seed=seed,
        workers=workers,
        pin_memory=pin_memory,
        cache=images,
        positions=Share(positions, rank, ranks),
        largest=sizes.largest,
        detail=detail,
        views=Views.from_config(net, ranks),
    )
