"""The endless stream of training images, and what of it a run loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data.loading.batch_loader import Loading
from data.loading.multi_scale import FixedMinibatch
from data.loading.rank_share import RankShare
from utils.structures import Size


@dataclass(frozen=True)
class Stream:
    """Mini-batches number ``start`` to ``stop - 1`` of the stream of images.

    Its functions are picklable, as workers get them.

    Attributes:
        batch: images of a mini-batch; of one of the ``largest`` size, where their number differs.
        size_at: (H, W) of a mini-batch, by its number.
        seed: of the order of the images and of all that is drawn.
        positions: which positions of the stream a mini-batch holds, by its number; None: ``batch`` each.
        largest: the largest (H, W) that comes, where it is known.
        closing: the first mini-batch of the last part of the run, by that part's share of it; None: no end is known,
            and no augmentation ends before the others.
    """

    batch: int
    size_at: Callable[[int], Size]
    start: int
    stop: int
    seed: int
    positions: Callable[[int], range] | None = None
    largest: Size | None = None
    closing: Callable[[float], int] | None = None

    @property
    def numbers(self) -> range:
        """Those of the mini-batches."""
        return range(self.start, self.stop)

    def order(self, loading: Loading) -> Callable[[int], range]:
        """The positions that this process of several loads of a mini-batch, by its number."""
        return RankShare(self.positions or FixedMinibatch(self.batch), loading.rank, loading.ranks)
