"""torch.compile for the pass through a network's layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.darknet import Darknet
from models.excitation import AssistedExcitation
from models.layers_pointwise import DropBlockLayer
from models.ops import get_ops
from models.ops.extension import side

Backend = str | Callable[..., Callable[..., object]]

_CHANGING = (DropBlockLayer, AssistedExcitation)  # each step is another program


def compile_layers(network: Darknet, backend: Backend = "inductor") -> None:
    """Compile forward and backward of ``network`` at its first pass, in place; names in the state dict stay.

    Where that cannot be done a line says so, and the network runs as it is.

    Args:
        backend: of torch.compile.
    """
    changing = [type(module).__name__ for module in network.modules() if isinstance(module, _CHANGING)]
    if changing:
        print(f"--compile: {changing[0]} changes with every step; the network runs as it is")
        return
    from torch._dynamo.exc import TorchDynamoException  # late: importing the compiler takes as long as torch itself

    if get_ops() != "native" and next(network.parameters()).is_cpu:
        side("cpu")  # what is compiled calls the operators that are there by then
    plain = network.run_layers
    compiled = torch.compile(plain, backend=backend)

    def run_layers(x: Tensor, frozen: int) -> list[Tensor]:
        try:
            return compiled(x, frozen)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            print(f"--compile: failed ({reason}); the network runs as it is")
            network.run_layers = plain
            return plain(x, frozen)

    network.run_layers = run_layers
