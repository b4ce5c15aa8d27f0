"""What the fused operators gain on this CPU: ``python -m benchmarks.ops_cpu [--seconds 2] [--threads 1]``.

Every row is measured in turns with its rivals in one run; times are medians. The fused operators are compared with
PyTorch's own Mish, with Mish written out in tensor operations, and with what costs least: a copy, leaky ReLU, SiLU.
With one thread the clock is the processor's, which hardly sees what else a busy machine does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.tables import RESULTS, Report, table
from models.ops import batch_norm_act, mish, set_ops
from models.ops.timing import interleaved_medians
from utils.memory import keep_freed_memory

Medians = Callable[[Mapping[str, Callable[[], object]]], dict[str, float]]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Bytes, threads at most, and whether results may lie where earlier ones lay: else glibc takes fresh pages above 32 MB,
# whose faults cost more than any of the functions.
SIZES = {
    "64 MB, fresh memory": (2**26, 64, False),
    "64 MB, memory used again": (2**26, 64, True),
    "1 MB, in cache": (2**20, 64, True),
    "256 KB, in cache, one core": (2**18, 1, True),
}
SHAPES = ((32, 304), (64, 152), (128, 76), (256, 38), (512, 19))  # channels, height and width: YOLOv4 at 608
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "copy": torch.clone,
    "leaky ReLU": lambda x: F.leaky_relu(x, 0.1),
    "SiLU": F.silu,
    "F.mish": F.mish,
    "x * tanh(softplus(x))": lambda x: x * torch.tanh(F.softplus(x)),
    "fused mish": mish,
}


def main() -> None:
    """Measure and write benchmarks/results/ops_cpu.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops_cpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row (2)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(all cores)")
    parser.add_argument("--out", type=Path, default=RESULTS / "ops_cpu.md")
    options = parser.parse_args()
    set_ops("fused")
    torch.set_num_threads(options.threads)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    medians = partial(interleaved_medians, seconds=options.seconds, rounds=1000, clock=clock)
    report = Report(options.out, "Fused operators on a CPU")
    report.add(f"Medians, in turns, of {'processor time' if options.threads == 1 else 'wall clock'}.\n")
    report.add(pointwise(medians))
    report.add(pairs(medians))


def pointwise(medians: Medians) -> str:
    """Milliseconds of each function, forward and backward apart."""
    rows = []
    threads = torch.get_num_threads()
    for size, (count, at_most, again) in SIZES.items():
        torch.set_num_threads(min(threads, at_most))
        if again:
            keep_freed_memory()
        for name, dtype in DTYPES.items():
            x = torch.randn(count // dtype.itemsize).to(dtype)
            forward = medians({key: _forward(f, x) for key, f in FUNCTIONS.items()})
            slopes = {key: _backward(f, x) for key, f in FUNCTIONS.items() if key != "copy"}
            backward = medians(slopes)
            rows += [
                (size, name, key, forward[key], backward.get(key, "-"), _gain(forward, key), _gain(backward, key))
                for key in FUNCTIONS
            ]
    torch.set_num_threads(threads)
    header = ("tensor", "dtype", "function", "forward ms", "backward ms", "forward, F.mish = 1", "backward, F.mish = 1")
    return "## Pointwise\n\n" + table(header, rows)


def _gain(times: dict[str, float], key: str) -> str:
    return f"{times['F.mish'] / times[key]:.1f}x" if key in times else "-"


def _forward(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    def once() -> None:
        with torch.no_grad():
            function(x)

    return once


def _backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    leaf, grad = x.clone().requires_grad_(), torch.ones_like(x)
    y = function(leaf)
    return lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True)


def pairs(medians: Medians) -> str:
    """Batch norm and Mish: PyTorch's two operations against the one."""
    rows = []
    for channels, side in SHAPES:
        for memory, memory_format in FORMATS.items():
            for name, dtype in DTYPES.items():
                x = torch.randn(4, channels, side, side).to(dtype).contiguous(memory_format=memory_format)
                for what, step in (("training", _training_step(x)), ("evaluation", _evaluation(x))):
                    times = medians({mode: step(mode) for mode in ("native", "fused")})
                    shape = f"4 x {channels} x {side} x {side}"
                    gain = f"{times['native'] / times['fused']:.1f}x"
                    rows.append((shape, memory, name, what, times["native"], times["fused"], gain))
    header = ("shape", "memory", "dtype", "what", "PyTorch's pair ms", "fused ms", "gain")
    return "## Batch norm + Mish (training: forward and backward)\n\n" + table(header, rows)


def _training_step(x: Tensor) -> Callable[[str], Callable[[], object]]:
    norm, grad, leaf = nn.BatchNorm2d(x.shape[1]), torch.ones_like(x), x.clone().requires_grad_()

    def way(mode: str) -> Callable[[], object]:
        def once() -> None:
            set_ops(mode)
            torch.autograd.grad(batch_norm_act(leaf, norm, "mish"), (leaf, norm.weight, norm.bias), grad)

        return once

    return way


def _evaluation(x: Tensor) -> Callable[[str], Callable[[], object]]:
    norm = nn.BatchNorm2d(x.shape[1]).eval()

    def way(mode: str) -> Callable[[], object]:
        def once() -> None:
            set_ops(mode)
            with torch.no_grad():
                batch_norm_act(x, norm, "mish")

        return once

    return way


if __name__ == "__main__":
    main()
