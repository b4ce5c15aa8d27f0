"""What the fused operators gain on a GPU: ``python -m benchmarks.on_gpu [--seconds 400] [--out FOLDER]``.

Writes ops_gpu.md and mish_accuracy_cuda.md. Only measured numbers are written: what did not fit into the time or the
memory says "not measured".
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import mish_accuracy
from benchmarks.tables import RESULTS, Report, table
from models.darknet import Darknet
from models.ops import batch_norm_act, mish, set_ops
from models.ops.registration import ops
from utils.cfg import Config, load_cfg, with_activation, with_size

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
SHAPES = ((32, 608), (64, 304), (128, 152), (256, 76), (512, 38), (1024, 19))  # YOLOv4 at 608
FORMATS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
ELEMENTS = 2**28
T = TypeVar("T")


class Clock:
    """How much of the allowed time is left."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def has(self, seconds: float) -> bool:
        """Whether ``seconds`` more fit."""
        return time.monotonic() + seconds < self.end


def main() -> None:
    """Measure within the time given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--smallest", action="store_true", help="each kernel once on a small tensor, for a memory checker"
    )
    options = parser.parse_args()
    set_ops("fused")
    if options.smallest:
        touch_every_kernel()
        return
    clock = Clock(options.seconds)
    report = Report(options.out / "ops_gpu.md", "Fused operators on a GPU", "cuda")
    copy = copy_bandwidth()
    report.add(f"Copy bandwidth, 2 x 4 GiB read and written: **{copy / 1e12:.2f} TB/s**\n")
    report.add(pointwise(copy, clock))
    report.add(pairs(clock))
    report.add(training_steps(clock))
    accuracy = Report(options.out / "mish_accuracy_cuda.md", "Accuracy of Mish on a GPU", "cuda")
    for section in mish_accuracy.sections(12_000_000, "cuda") if clock.has(20) else ["not measured\n"]:
        accuracy.add(section)


def touch_every_kernel() -> None:
    """Whole packs and rests, both memory formats, every dtype and activation, aligned and not."""
    for dtype in (*DTYPES.values(), torch.float64):
        for channels, side in ((16, 4), (7, 5)):
            x = torch.randn(2, channels, side, side, device="cuda").to(dtype)
            for memory_format in FORMATS.values():
                features = x.contiguous(memory_format=memory_format)
                mean, invstd = ops.bn_stats(features, None, None, 0.1, 1e-5)
                for activation in range(5):
                    ops.bn_act(features, mean, invstd, mean, mean, activation, True)
                    ops.bn_act_backward(features, features, mean, invstd, mean, mean, activation, True)
                    ops.bias_act_(features.clone(), mean, activation)
            for values in (x.flatten(), x.flatten()[1:]):
                ops.mish(values)
                ops.mish_backward(values, values)
                ops.mish_double_backward(values, values, values)
    torch.cuda.synchronize()


def median_ms(work: Callable[[], object], rounds: int = 50, *, graph: bool = True) -> float:
    """Median milliseconds by events; as a graph's replay, where the work can be captured, to leave the host out."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    run = _captured(work) if graph else work
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def _captured(work: Callable[[], object]) -> Callable[[], object]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def copy_bandwidth() -> float:
    """Bytes a second of a large copy, read and written: what every share below refers to."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / (median_ms(lambda: target.copy_(source), 20) / 1e3)


# --- pointwise ------------------------------------------------------------------------------------------------------


def pointwise(copy: float, clock: Clock) -> str:
    """Each function on 2^28 elements, forward and backward, and its share of the copy bandwidth."""
    compiled = torch.compile(F.mish, dynamic=False)
    aten = torch.ops.aten
    functions = {
        "ReLU": (F.relu, partial(aten.threshold_backward, threshold=0)),
        "SiLU": (F.silu, aten.silu_backward),
        "F.mish": (F.mish, aten.mish_backward),
        "x * tanh(softplus(x))": (lambda x: x * torch.tanh(F.softplus(x)), None),
        "torch.compile(F.mish)": (compiled, None),
        "fused mish": (ops.mish, ops.mish_backward),
    }
    rows = []
    for name, dtype in DTYPES.items():
        x = torch.randn(ELEMENTS, dtype=torch.float32, device="cuda").to(dtype)
        for key, (forward, backward) in functions.items():
            times = [_try(median_ms, partial(forward, x)) if clock.has(5) else None, None]
            if backward is not None and clock.has(5):
                times[1] = _try(median_ms, partial(backward, x, x))
            shares = [
                None if ms is None else f"{passes * x.nbytes / (ms / 1e3) / copy:.0%}"
                for ms, passes in zip(times, (2, 3), strict=True)
            ]
            rows.append((name, key, times[0], shares[0], times[1], shares[1]))
        x = None
    header = ("dtype", "function", "forward ms", "of copy bandwidth", "backward ms", "of copy bandwidth")
    return f"## Pointwise, {ELEMENTS:,} elements\n\n" + table(header, rows)


def _try(measure: Callable[..., T], *arguments: object) -> T | None:
    """None where memory or the compiler fails."""
    try:
        return measure(*arguments)
    except (torch.cuda.OutOfMemoryError, RuntimeError) as error:
        print(f"not measured: {str(error).splitlines()[0]}", flush=True)
        torch.cuda.empty_cache()
        return None


# --- batch norm and mish --------------------------------------------------------------------------------------------


def pairs(clock: Clock) -> str:
    """Forward and backward of batch norm and Mish: PyTorch's pair, its batch norm with our Mish, compiled, fused."""
    rows = []
    for batch, name, memory, (channels, side) in _pair_cases():
        case = (f"{batch} x {channels} x {side} x {side}", memory, name)
        if not clock.has(12):
            rows.append((*case, *[None] * 4, "-"))
            continue
        x = torch.randn(batch, channels, side, side, device="cuda").to(DTYPES[name])
        x = x.contiguous(memory_format=FORMATS[memory]).requires_grad_()
        ways = _pair_ways(compiled=channels == 128 and batch == 16)
        times = [_try(_training_ms, way, x) for way in ways]
        gain = f"{times[0] / times[3]:.2f}x" if times[0] and times[3] else "-"
        rows.append((*case, *times, gain))
        del x
        torch.cuda.empty_cache()
    header = (
        "shape",
        "memory",
        "dtype",
        "eager ms",
        "eager norm, fused mish ms",
        "torch.compile ms",
        "fused ms",
        "gain",
    )
    return "## Batch norm + Mish, training, forward and backward\n\n" + table(header, rows)


def _pair_cases() -> Iterator[tuple[int, str, str, tuple[int, int]]]:
    for batch in (16, 64):
        for name in ("bf16", "fp32"):
            for memory in FORMATS:
                for shape in SHAPES:
                    if batch * shape[0] * shape[1] ** 2 < 2**29:
                        yield batch, name, memory, shape


def _pair_ways(*, compiled: bool) -> list[Callable[[Tensor, nn.BatchNorm2d], Tensor] | None]:
    def native(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return F.mish(norm(x))

    return [
        native,
        lambda x, norm: mish(norm(x)),
        torch.compile(native, dynamic=False) if compiled else None,
        lambda x, norm: batch_norm_act(x, norm, "mish"),
    ]


def _training_ms(way: Callable[[Tensor, nn.BatchNorm2d], Tensor] | None, x: Tensor) -> float | None:
    if way is None:
        return None
    norm, grad = nn.BatchNorm2d(x.shape[1]).cuda(), torch.randn_like(x)
    leaves = (x, norm.weight, norm.bias)
    return median_ms(lambda: torch.autograd.grad(way(x, norm), leaves, grad), 30, graph=False)


# --- the whole network ----------------------------------------------------------------------------------------------


def training_steps(clock: Clock) -> str:
    """YOLOv4 at 608, bf16 autocast, channels_last: images a second and peak memory of a step without the loss."""
    config = with_size(load_cfg("yolov4.cfg"), (608, 608))
    networks = {
        "yolov4.cfg": config,
        "all Mish": with_activation(config, "mish"),
        "all leaky": with_activation(config, "leaky"),
        "all ReLU": with_activation(config, "relu"),
    }
    rows = []
    for batch in (16, 32, 64):
        for name, network in networks.items():
            for mode in ("native", "fused"):
                found = _try(_step, network, batch, mode) if clock.has(20) else None
                rows.append((batch, name, mode, *(found or (None, None))))
    header = ("batch", "network", "operators", "images/s", "peak memory GiB")
    return "## Training step, YOLOv4 at 608, bf16 autocast, channels_last, sum of squares for a loss\n\n" + table(
        header, rows
    )


def _step(config: Config, batch: int, mode: str) -> tuple[float, float]:
    """Images a second and peak GiB."""
    set_ops(mode)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    network = Darknet(config).cuda().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    images = torch.rand(batch, 3, 608, 608, device="cuda").contiguous(memory_format=torch.channels_last)

    def once() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            raws = network(images)
        sum(raw.float().square().mean() for raw in raws).backward()
        optimizer.step()
        optimizer.zero_grad()

    try:
        milliseconds = median_ms(once, 8, graph=False)
    finally:
        set_ops("fused")
    return batch / milliseconds * 1e3, torch.cuda.max_memory_allocated() / 2**30


if __name__ == "__main__":
    main()
