"""torch.compile for the pass through a network's layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.darknet import Darknet
from models.layers.excitation import AssistedExcitation
from models.layers.pointwise import DropBlockLayer
from models.ops import PackedConv2d, get_ops
from models.ops.extension import side

Backend = str | Callable[..., Callable[..., object]]

_CHANGING = (DropBlockLayer, AssistedExcitation)  # each step is another program


def compile_layers(network: Darknet, backend: Backend = "inductor") -> None:
    """Compile the pass of ``network`` through its layers when it first happens, in place; names in the state dict stay.

    In training that is forward and backward. A network in evaluation mode gets its weights compiled in, which must not
    change any more, and the program is for the size and number of the first images; others run uncompiled.

    Where it cannot be done a line says so, and the network runs as it is.

    Args:
        backend: of torch.compile.
    """
    changing = [type(module).__name__ for module in network.modules() if isinstance(module, _CHANGING)]
    if network.training and changing:
        print(f"--compile: {changing[0]} changes with every step; the network runs as it is")
        return
    if get_ops() != "native" and next(network.parameters()).is_cpu:
        side("cpu")  # what is compiled calls the operators that are there by then
    if not network.training:
        for module in network.modules():
            if isinstance(module, PackedConv2d):
                module.prepare()
    network.run_layers = _Compiled(network, backend)  # type: ignore[method-assign]


class _Compiled:
    """``Darknet.run_layers`` by torch.compile."""

    def __init__(self, network: Darknet, backend: Backend) -> None:
        self.network, self.plain = network, network.run_layers
        self.for_use = not network.training
        self.shape: torch.Size | None = None
        # A wrapper in C++ saves 40 microseconds a convolution on a CPU.
        on_cpu = next(network.parameters()).is_cpu
        self.settings = {"freezing": True, "cpp_wrapper": on_cpu} if self.for_use else {}  # of Inductor
        self.compiled = torch.compile(self.plain, backend=backend, dynamic=False if self.for_use else None)

    def __call__(self, x: Tensor, frozen: int) -> list[Tensor]:
        # late: importing the compiler takes as long as torch itself
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor import config

        if self.for_use and self.shape is None:
            print("--compile: the first images wait for the compiler, up to two minutes", flush=True)
            self.shape = x.shape
        if self.for_use and x.shape != self.shape:
            return self.plain(x, frozen)
        try:
            with config.patch(self.settings):
                return self.compiled(x, frozen)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            print(f"--compile: failed ({reason}); the network runs as it is")
            self.network.run_layers = self.plain  # type: ignore[method-assign]
            return self.plain(x, frozen)
