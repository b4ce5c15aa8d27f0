"""Whether a detector's learning rate suits its optimiser, its batch and the length of the training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from training.checks.findings import Finding
from training.optim import learning_rate
from utils.cfg.net import Net


class _Limits(NamedTuple):
    """Rates above which a training is rough, and above which it breaks; and one that is known to work."""

    high: float
    absurd: float
    usual: float


# For detectors: Darknet's cfgs have 0.001 to 0.01.
_SGD = _Limits(0.05, 0.2, 0.00261)
_ADAM = _Limits(0.005, 0.05, 0.001)
_USELESS = 1e-7
_OUT_OF_PROPORTION = 16  # rate for each image of a batch, against the cfg's
_FEW = 200  # steps
_FEW_DEEP = 400
_SAMPLES = 500  # of the schedule, to find its peak


def schedule_findings(
    net: Net, original: Net, *, adam: bool, scaled: bool, cbn: bool = False, deep: bool = False
) -> Iterator[Finding]:
    """Rates and lengths that cannot work.

    Args:
        net: as it will be trained.
        original: as the cfg has it, before flags and plan.
        adam: whether the optimiser is of Adam's kind.
        scaled: the rate was scaled to the batch already.
        cbn: batch norm gathers over the subdivisions.
        deep: the network needs longer to learn, see `training.schedule.regime`.
    """
    yield from _rate(net, original, adam=adam, scaled=scaled)
    yield from _length(net, deep=deep)
    if net.batch // net.subdivisions == 1 and not cbn:
        yield Finding(
            "warning",
            f"batch {net.batch} in {net.subdivisions} subdivisions: batch norm sees one image at a time",
            f"--subdivisions {net.batch // 4}, or --batch auto; where memory does not allow it, --cbn"
            if net.batch >= 4
            else "--batch 8",
        )


def _rate(net: Net, original: Net, *, adam: bool, scaled: bool) -> Iterator[Finding]:
    """The highest rate of the whole schedule, by itself and against the batch."""
    limits = _ADAM if adam else _SGD
    steps = np.linspace(1, net.max_batches, min(_SAMPLES, net.max_batches)).round().astype(int)
    peak = max((learning_rate(net, int(step)) for step in steps), default=net.learning_rate)
    good = original.learning_rate if _USELESS < original.learning_rate <= limits.high else limits.usual
    fix = f"--set learning_rate={good:g}"
    if peak > limits.absurd:
        yield Finding("serious", f"the learning rate rises to {peak:.3g}: the loss will not stay finite", fix)
    elif peak > limits.high:
        yield Finding("warning", f"the learning rate rises to {peak:.3g}: rough for {'Adam' if adam else 'SGD'}", fix)
    elif peak < _USELESS:
        yield Finding("serious", f"the learning rate never exceeds {peak:.3g}: nothing is learned", fix)
    elif not scaled and not adam:
        yield from _proportion(net, original)


def _length(net: Net, *, deep: bool) -> Iterator[Finding]:
    """How many iterations, and how many of them are warm-up."""
    total = net.max_batches
    if total < (_FEW_DEEP if deep else _FEW):
        network = "for a network so deep " if deep else ""
        yield Finding(
            "warning",
            f"{total:,} iterations are too few {network}to learn from",
            "--iterations 1000 or more, or --epochs 100",
        )
    elif 2 * net.burn_in > total:
        yield Finding(
            "warning",
            f"the warm-up takes {net.burn_in:,} of {total:,} iterations: the full learning rate comes late or never",
            f"--set burn_in={total // 20}, or a longer training: --iterations {10 * net.burn_in}",
        )


def _proportion(net: Net, original: Net) -> Iterator[Finding]:
    """A rate for another batch than the one it is used with (arXiv 1706.02677, section 2.1)."""
    if not original.learning_rate:
        return
    ratio = (net.learning_rate / net.batch) / (original.learning_rate / original.batch)
    if 1 / _OUT_OF_PROPORTION <= ratio <= _OUT_OF_PROPORTION:
        return
    wanted = original.learning_rate * net.batch / original.batch
    yield Finding(
        "warning",
        f"learning rate {net.learning_rate:g} with a batch of {net.batch}: the cfg has {original.learning_rate:g} "
        f"for {original.batch}, which is {wanted:.2g} for {net.batch}",
        f"--set learning_rate={wanted:.2g}, or another --batch",
    )
