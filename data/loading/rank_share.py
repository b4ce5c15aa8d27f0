"""The part of each mini-batch that one of several processes computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from utils.cfg.net import Net
from utils.errors import UsageError


@dataclass(frozen=True)
class RankShare:
    """Neighbouring positions of a mini-batch; the shares of all ranks, put together, are the mini-batch.

    So the images of an iteration do not depend on the number of processes.

    Attributes:
        positions: of the whole mini-batch, by its number.
        rank, ranks: which process of how many.
    """

    positions: Callable[[int], range]
    rank: int
    ranks: int

    def __call__(self, minibatch: int) -> range:
        """Positions of this rank in mini-batch number ``minibatch``."""
        whole = self.positions(minibatch)
        return whole[len(whole) * self.rank // self.ranks : len(whole) * (self.rank + 1) // self.ranks]


def check_divisible(net: Net, ranks: int) -> None:
    """Refuse a batch that cannot be cut into equal mini-batches for ``ranks`` processes.

    Raises:
        UsageError: with the nearest batches that can.
    """
    step = net.subdivisions * ranks
    if net.batch % step:
        below, above = net.batch // step * step, (net.batch // step + 1) * step
        choices = f"{below} or {above}" if below else str(above)
        raise UsageError(
            f"batch={net.batch} in subdivisions={net.subdivisions} does not divide among {ranks} processes; "
            f"give --batch {choices}, other --subdivisions, or start another number of processes"
        )
