"""An exponential moving average of a network's weights, which evaluates better than the weights themselves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from utils.cfg.net import Net
from utils.errors import UsageError

_SHARE = 0.02  # of a run; the modern average looks back so far
_LAST_ITERATIONS = 1000  # Darknet ends its average so many before the end


class Ema:
    """Averages every floating-point tensor of a network's state, batch norm statistics included, in float32.

    Early weights are forgotten quickly: the decay ramps up as ``decay * (1 - exp(-updates / ramp))``.

    Args:
        network: the average starts as a copy of its state.
        decay: what remains of the average at each update, in [0, 1), once the ramp is over.
        ramp: updates after which the decay has reached 63 % of its value; 0 for none.
    """

    def __init__(self, network: nn.Module, *, decay: float, ramp: float = 2000.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"Ema: decay={decay} (wanted at least 0 and less than 1)")
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        self._state = {name: _copy(tensor) for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's state, in place; counters are copied."""
        self.updates += 1
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, current in network.state_dict().items():
            average = self._state[name]
            if average.is_floating_point():
                averages.append(average)
                currents.append(current.to(average.dtype))
            else:
                average.copy_(current)
        torch._foreach_lerp_(averages, currents, 1 - self._decay_now())

    def module_state(self) -> dict[str, Tensor]:
        """The average as a state dict of the network, for evaluation and saving. The tensors are the Ema's own."""
        return dict(self._state)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on: plain tensors and a number. The tensors are the Ema's own."""
        return {"average": dict(self._state), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, in place.

        Raises:
            ValueError: the average is of another network.
        """
        average: dict[str, Tensor] = state["average"]
        unlike = [name for name, own in self._state.items() if name not in average or average[name].shape != own.shape]
        unlike += [name for name in average if name not in self._state]
        if unlike:
            raise ValueError(
                f"Ema: {len(unlike)} tensors differ in name or shape, such as {unlike[0]}; another network?"
            )
        for name, own in self._state.items():
            own.copy_(average[name])
        self.updates = state["updates"]

    def _decay_now(self) -> float:
        return self.decay * (1 - math.exp(-self.updates / self.ramp)) if self.ramp > 0 else self.decay


class DarknetEma(Ema):
    """Darknet's average of the weights ([net] ``ema_alpha``), which takes the place of the weights near the end.

    From iteration ``max_batches / 2`` on the learned tensors are averaged, batch norm statistics are the network's. At
    iteration ``max_batches - 1000`` the network gets the average and goes on from there. Before and after that, and in
    trainings of no more than 2000 iterations, there is no average: the state is the network's.

    Args:
        network: to be averaged.
        alpha: what remains of the average at each update.
        max_batches: iterations of the training.
    """

    def __init__(self, network: nn.Module, *, alpha: float, max_batches: int) -> None:
        super().__init__(network, decay=alpha, ramp=0)
        self.start, self.end = max_batches // 2, max_batches - _LAST_ITERATIONS
        self._learned = {name for name, _ in network.named_parameters(remove_duplicate=False)}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take note of a step, in place; at the end of the average the network's weights become the average."""
        self.updates += 1
        averaging = self.start < self.updates < self.end
        ending = self.updates == self.end > self.start
        for name, current in network.state_dict().items():
            average = self._state[name]
            if ending and name in self._learned:
                current.copy_(average)
            elif averaging and name in self._learned:
                average.lerp_(current.to(average.dtype), 1 - self.decay)
            else:
                average.copy_(current)


def make_ema(kind: str, network: nn.Module, net: Net) -> Ema:
    """The average a training keeps: ``modern``, ``darknet`` or, with ``off``, the weights themselves.

    Raises:
        UsageError: ``darknet`` where the cfg gives no ``ema_alpha``, or for a training too short to average in.
    """
    if kind == "modern":
        return Ema(network, decay=1 - 1 / (_SHARE * net.max_batches + 1), ramp=_SHARE * net.max_batches)
    if kind == "off":
        return Ema(network, decay=0.0, ramp=0)
    if not 0 < net.ema_alpha < 1:
        raise UsageError(f"--ema darknet: the cfg has ema_alpha={net.ema_alpha:g}; add --set ema_alpha=0.9998")
    if net.max_batches <= 2 * _LAST_ITERATIONS:
        raise UsageError(
            f"--ema darknet: averages from half of the training to {_LAST_ITERATIONS} iterations before its end, which "
            f"of {net.max_batches} leaves none; give --iterations of more than {2 * _LAST_ITERATIONS}, or --ema modern"
        )
    return DarknetEma(network, alpha=net.ema_alpha, max_batches=net.max_batches)


def _copy(tensor: Tensor) -> Tensor:
    """A copy of its own, half precision widened to float32."""
    wide = tensor.dtype if tensor.dtype == torch.float64 or not tensor.is_floating_point() else torch.float32
    return tensor.detach().to(wide, copy=True)
