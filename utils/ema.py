"""An exponential moving average of a network's weights, which evaluates better than the weights themselves."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


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


def _copy(tensor: Tensor) -> Tensor:
    """A copy of its own, half precision widened to float32."""
    wide = tensor.dtype if tensor.dtype == torch.float64 or not tensor.is_floating_point() else torch.float32
    return tensor.detach().to(wide, copy=True)
