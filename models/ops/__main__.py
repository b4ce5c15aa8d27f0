"""Say which operators are active, how they were built, and what they gain: ``python -m models.ops [--build]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from models.ops import PackedConv2d, batch_norm_act, get_ops, mish, set_ops
from models.ops.build import build
from models.ops.extension import devices, side, use_cpu_kernels
from models.ops.timing import interleaved_medians
from utils.compiler import BuildError, cache_folder, cuda_compiler
from utils.errors import EnvironmentFault


def main(arguments: list[str] | None = None) -> int:
    """Print the report; with --build compile whatever can be compiled here. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.ops", description=__doc__)
    parser.add_argument("--build", action="store_true", help="compile ahead of the first use, and stop")
    parser.add_argument("--force", action="store_true", help="with --build: compile again")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the benchmark (10)")
    options = parser.parse_args(arguments)
    if options.build:
        return build_all(force=options.force)
    print(f"mode      {get_ops()}\ntorch     {torch.__version__}\ncache     {where_the_cache_lies()}")
    for device in devices():
        print(describe(device))
        if side(device).library is not None:
            compare(device, options.seconds / len(devices()))
    return 0


def where_the_cache_lies() -> str:
    """The folder, or why there is none."""
    try:
        return str(cache_folder())
    except BuildError as error:
        return f"none: {error}"


def build_all(*, force: bool) -> int:
    """Compile every side whose compiler is here; the CPU side must succeed. Returns the exit code."""
    try:
        print(f"cpu       {build('cpu', force=force)}")
    except BuildError as error:
        print(f"cpu       {error}", file=sys.stderr)
        return EnvironmentFault.exit_code
    try:
        cuda_compiler()
        print(f"cuda      {build('cuda', force=force)}")
    except BuildError as error:
        print(f"cuda      not built: {error}")
    return 0


def describe(device: str) -> str:
    """One line: fused or native, and why."""
    found = side(device)
    if found.library is None:
        return f"{device:<9} native: {found.reason}"
    detail = f"{use_cpu_kernels('')} kernels, {torch.get_num_threads()} threads" if device == "cpu" else "fused kernels"
    if found.has_conv_act:
        detail += ", bf16 convolutions by AMX"
    return f"{device:<9} fused: {detail}, {found.library}"


def compare(device: str, seconds: float) -> None:
    """Time the operators against PyTorch's on one of YOLOv4's shapes, 128 channels at 76 x 76 (608 input)."""
    x = torch.randn(2, 128, 76, 76, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    norm, grad, before = nn.BatchNorm2d(128).to(device), torch.randn_like(x), get_ops()
    conv, image = PackedConv2d(128, 128, 3, padding=1).bfloat16().requires_grad_(False), x.detach()[:1].bfloat16()

    def with_backward(operation: Callable[[], Tensor]) -> None:
        operation().backward(grad)
        x.grad = None

    operations: dict[str, Callable[[], object]] = {
        "mish, forward and backward": lambda: with_backward(lambda: mish(x)),
        "batch norm + mish, forward and backward": lambda: with_backward(lambda: batch_norm_act(x, norm, "mish")),
    }
    if side(device).has_conv_act:
        operations["convolution + mish, bf16"] = lambda: conv.activated(image, "mish")
    for name, operation in operations.items():
        times = interleaved_medians(
            {mode: partial(_in_mode, mode, operation) for mode in ("native", "fused")},
            seconds=seconds / len(operations),
            rounds=1000,
            device=device,
        )
        native, fused = times["native"], times["fused"]
        print(f"          {name}: native {native:.2f} ms, fused {fused:.2f} ms, {native / fused:.1f}x")
    set_ops(before)


def _in_mode(mode: str, operation: Callable[[], object]) -> None:
    set_ops(mode)
    operation()


if __name__ == "__main__":
    sys.exit(main())
