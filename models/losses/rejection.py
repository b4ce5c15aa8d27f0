"""Late in a training: do not learn what the network disagrees with most, for its label may be wrong.

Darknet's ``badlabels_rejection_percentage`` and ``num_sigmas_reject_badlabels`` ignore the largest deltas in the last
quarter of the training, ``equidistant_point`` the smallest ones after that iteration (the end of forward_yolo_layer).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.darknet import Darknet
from models.losses.result import Losses
from utils.structures import Targets

_START = 0.75  # part of the training before which no label is rejected
_KEPT = 0.99  # of the rolling statistics, at each head of each mini-batch
_EQUIDISTANT = 1.4  # times the average delta is what is too small at the end of the training
_STEP = 0.01  # by which the threshold of the percentage moves


@dataclasses.dataclass
class RollingDelta:
    """What is remembered of the deltas' sizes: plain numbers, part of a checkpoint."""

    largest: float = 0.0
    mean: float = 0.0
    deviation: float = 0.0
    threshold: float = 0.0

    def gather(self, sizes: Tensor) -> None:
        """Note the sizes (N,) of the deltas that are not zero, in place."""
        self.largest = self.largest or sizes.max().item()
        self.largest = _rolling(self.largest, sizes.max().item())
        self.mean = _rolling(self.mean, sizes.mean().item())


class LabelRejection:
    """A criterion whose deltas are thinned out by the [net] keys above; any criterion will do.

    Args:
        criterion: raw heads and truth of a mini-batch to `Losses`.
        network: gives the keys, and by its ``seen`` how far the training is.
    """

    def __init__(self, criterion: Callable[[Sequence[Tensor], Targets], Losses], network: Darknet) -> None:
        self.criterion = criterion
        self.network = network
        self.net = network.config.net
        self.rolling = RollingDelta()

    def __call__(self, raws: Sequence[Tensor], targets: Targets) -> Losses:
        """The loss of a mini-batch: the value is the criterion's, the gradient what is left of it."""
        iteration = self.network.seen // self.net.batch
        if not self._acts(iteration):
            return self.criterion(raws, targets)
        leaves = [raw.detach().requires_grad_() for raw in raws]
        losses = self.criterion(leaves, targets)
        gradients = torch.autograd.grad(losses.total, leaves, materialize_grads=True)
        kept = [self.thinned(gradient, iteration) for gradient in gradients]
        carrier = torch.stack([(raw * gradient).sum() for raw, gradient in zip(raws, kept, strict=True)]).sum()
        return dataclasses.replace(losses, total=losses.total.detach() + carrier - carrier.detach())

    def state_dict(self) -> dict[str, float]:
        """What is remembered from step to step."""
        return vars(self.rolling).copy()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take over what `state_dict` gave, in place."""
        self.rolling = RollingDelta(**state)

    def thinned(self, delta: Tensor, iteration: int) -> Tensor:
        """``delta`` of one head, of any shape and sign, with zeros for what is not to be learned."""
        sizes = delta.abs()
        present = sizes[sizes != 0]
        if not len(present):
            return delta
        self.rolling.gather(present)
        net, late = self.net, self._late(iteration)
        if net.num_sigmas_reject_badlabels and late:
            delta = torch.where(sizes > self._sigmas(delta[delta != 0], iteration), 0.0, delta)
        if net.badlabels_rejection_percentage and late:
            delta = self._without_share(delta)
        if net.equidistant_point and iteration > net.equidistant_point:
            past = (iteration - net.equidistant_point) / max(1, net.max_batches - net.equidistant_point)
            delta = torch.where(delta.abs() < _EQUIDISTANT * past * self.rolling.mean, 0.0, delta)
        return delta

    def _acts(self, iteration: int) -> bool:
        net = self.net
        rejects = net.badlabels_rejection_percentage or net.num_sigmas_reject_badlabels
        return bool((rejects and self._late(iteration)) or (0 < net.equidistant_point < iteration))

    def _late(self, iteration: int) -> bool:
        return iteration > _START * self.net.max_batches

    def _sigmas(self, present: Tensor, iteration: int) -> float:
        """The threshold that falls from the largest delta to so many deviations above the mean."""
        rolling, start = self.rolling, _START * self.net.max_batches
        deviation = (present.abs() - rolling.mean).square().mean().sqrt().item()
        rolling.deviation = _rolling(rolling.deviation, deviation)
        final = rolling.mean + self.net.num_sigmas_reject_badlabels * rolling.deviation
        past = (iteration - start) / max(1, start)
        return max(final, rolling.largest - past * abs(rolling.largest - final))

    def _without_share(self, delta: Tensor) -> Tensor:
        """``delta`` without the largest; the threshold moves until they are the wanted percentage of predictions."""
        rolling = self.rolling
        rolling.threshold = rolling.threshold or rolling.largest
        rejected = delta.abs() > rolling.threshold
        entries = 5 + self.network.num_classes  # one rejected number counts for its whole prediction
        percent = 100 * entries * rejected.sum().item() / max(1, int((delta != 0).sum()))
        if percent > self.net.badlabels_rejection_percentage:
            rolling.threshold += _STEP
        elif rolling.threshold > _STEP:
            rolling.threshold -= _STEP
        return torch.where(rejected, 0.0, delta)


def _rolling(before: float, now: float) -> float:
    return _KEPT * before + (1 - _KEPT) * now
