"""The mini-batches of a training of detectors, as its cfg asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from data.augment.contrastive_views import Views
from data.augment.detection import Augmentation, last_head
from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.cache import cache_for
from data.loading.detection import train_loader
from data.loading.multi_scale import DynamicMinibatch, MultiScale
from data.loading.rank_share import check_divisible
from data.loading.reader import Detail
from data.loading.stream import Stream
from utils.cfg import Config
from utils.structures import Batch

_DARKNET_SCALES = 1.4  # what [yolo] random=1 stands for


def training_batches(
    dataset: Dataset, config: Config, augmentation: Augmentation, loading: Loading, *, start: int, seed: int
) -> Iterable[Batch]:
    """The mini-batches from iteration ``start`` to the cfg's last, each a pure function of the seed and its number.

    Raises:
        UsageError: a batch that does not divide among the processes, or mini-batches too small for ``contrastive``.
        As :func:`data.loading.detection.train_loader`.
    """
    net = config.net
    check_divisible(net, loading.ranks)
    total, batch, sizes = net.max_batches * net.subdivisions, net.batch // net.subdivisions, input_sizes(config, seed)
    stream = Stream(
        batch,
        size_at=sizes,
        start=start * net.subdivisions,
        stop=total,
        seed=seed,
        positions=DynamicMinibatch(batch, sizes, total) if net.dynamic_minibatch else None,
        largest=sizes.largest,
        closing=net.closing,
    )
    detail = Detail(augmentation.pixels_needed(sizes.largest))
    kept = cache_for(dataset, loading, detail)
    views = Views.from_config(net, loading.ranks)
    return train_loader(dataset, augmentation, stream, loading, kept=kept, detail=detail, views=views)


def input_sizes(config: Config, seed: int) -> MultiScale:
    """The input size of each mini-batch, as the cfg's last head says."""
    net, random = config.net, last_head(config).random
    return MultiScale(
        size=(net.height, net.width),
        factor=_DARKNET_SCALES if random == 1 else random or 1.0,
        step=net.resize_step,
        seed=seed,
        subdivisions=net.subdivisions,
        max_batches=net.max_batches,
    )
