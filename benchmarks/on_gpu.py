"""What the fused operators gain on a GPU: ``python -m benchmarks.on_gpu [--seconds 400] [--out FOLDER]``.

Writes ops_gpu.md and mish_accuracy_cuda.md. Only measured numbers are written: what did not fit into the time or the
memory says "not measured". What the targets are about comes first.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import gpu_timing, mish_accuracy
from benchmarks.gpu_network import TARGET_BATCH, kept, largest_batches, training_steps
from benchmarks.gpu_targets import ratio, targets
from benchmarks.gpu_timing import Clock, Numbers, attempt, copy_bandwidth, median_ms
from benchmarks.tables import RESULTS, Report, table
from models.ops import batch_norm_act, mish, set_ops
from models.ops.registration import ops

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
SHAPES = ((32, 608), (64, 304), (128, 152), (256, 76), (512, 38), (1024, 19))  # YOLOv4 at 608
FORMATS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
ELEMENTS = 2**28
SAMPLES = 12_000_000  # float32 values whose error is measured

Way = Callable[[Tensor, nn.BatchNorm2d], Tensor]


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
        torch.cuda.synchronize()
    else:
        measure(options.out, Clock(options.seconds))


def measure(folder: Path, clock: Clock) -> None:
    """Write both reports, section by section."""
    report = Report(folder / "ops_gpu.md", "Fused operators on a GPU", gpu_timing.DEVICE)
    copy, found = copy_bandwidth(), Numbers()
    report.add(f"Copy bandwidth, 2 x 4 GiB read and written: **{copy / 1e12:.2f} TB/s**\n")
    report.add(pointwise(copy, clock, found))
    report.add(kept(clock, found))
    report.add(training_steps((TARGET_BATCH,), clock, found))
    report.add(pairs(16, clock, found))
    report.add(targets(found))
    accuracy = Report(folder / "mish_accuracy_cuda.md", "Accuracy of Mish on a GPU", gpu_timing.DEVICE)
    for section in mish_accuracy.sections(SAMPLES, gpu_timing.DEVICE) if clock.has(20) else ["not measured\n"]:
        accuracy.add(section)
    report.add(training_steps((16, 64), clock, {}))
    report.add(largest_batches(clock))
    report.add(pairs(64, clock, {}))


def touch_every_kernel() -> None:
    """Whole packs and rests, both memory formats, every dtype and activation, aligned and not."""
    for dtype in (*DTYPES.values(), torch.float64):
        for channels, side in ((16, 4), (7, 5)):
            x = torch.randn(2, channels, side, side, device=gpu_timing.DEVICE).to(dtype)
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


# --- pointwise ------------------------------------------------------------------------------------------------------


def pointwise(copy: float, clock: Clock, found: Numbers) -> str:
    """Each function on 2^28 elements, forward and backward, and its share of the copy bandwidth."""
    aten = torch.ops.aten
    compiled = [torch.compile(f, dynamic=False) for f in (F.mish, lambda grad, x: aten.mish_backward(grad, x))]
    functions = {
        "ReLU": (F.relu, partial(aten.threshold_backward, threshold=0)),
        "SiLU": (F.silu, aten.silu_backward),
        "F.mish": (F.mish, aten.mish_backward),
        "x * tanh(softplus(x))": (_composite, None),
        "torch.compile(F.mish)": compiled,
        "fused mish": (ops.mish, ops.mish_backward),
    }
    rows = []
    for name, dtype in DTYPES.items():
        x = torch.randn(ELEMENTS, dtype=torch.float32, device=gpu_timing.DEVICE).to(dtype)
        times = {key: _both_ways(forward, backward, x, clock) for key, (forward, backward) in functions.items()}
        shares = {
            key: [
                passes * x.nbytes / (ms / 1e3) / copy if ms else None for ms, passes in zip(both, (2, 3), strict=True)
            ]
            for key, both in times.items()
        }
        rows += [(name, key, both[0], shares[key][0], both[1], shares[key][1]) for key, both in times.items()]
        for way in (0, 1):
            found[f"{name} share {way}"] = shares["fused mish"][way]
            found[f"{name} gain {way}"] = ratio(times["F.mish"][way], times["fused mish"][way])
        del x
    header = ("dtype", "function", "forward ms", "of copy bandwidth", "backward ms", "of copy bandwidth")
    return f"## Pointwise, {ELEMENTS:,} elements\n\n" + table(header, rows)


def _composite(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def _both_ways(
    forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor, Tensor], Tensor] | None, x: Tensor, clock: Clock
) -> tuple[float | None, float | None]:
    """Milliseconds forward and backward; without a function for backward, of autograd's."""
    there = attempt(median_ms, partial(forward, x)) if clock.has(5) else None
    if not clock.has(5):
        return there, None
    if backward is not None:
        return there, attempt(median_ms, partial(backward, x, x))
    leaf = x.detach().requires_grad_()
    y = attempt(forward, leaf)
    if y is None:
        return there, None
    return there, attempt(median_ms, lambda: torch.autograd.grad(y, leaf, x, retain_graph=True))


# --- batch norm and mish --------------------------------------------------------------------------------------------


def pairs(batch: int, clock: Clock, found: Numbers) -> str:
    """Forward and backward of batch norm and Mish: PyTorch's pair, its batch norm with our Mish, compiled, fused."""
    rows: list[tuple[object, ...]] = []
    for name, memory, (channels, side) in _pair_cases(batch):
        times: list[float | None] = [None] * 4
        if clock.has(12):
            x = torch.randn(batch, channels, side, side, device=gpu_timing.DEVICE).to(DTYPES[name])
            x = x.contiguous(memory_format=FORMATS[memory]).requires_grad_()
            ways = _pair_ways(compiled=channels == 128 and batch == 16 and clock.has(60))
            times = [attempt(_training_ms, way, x) for way in ways]
            del x
        gain = ratio(times[0], times[3])
        rows.append((f"{batch} x {channels} x {side} x {side}", memory, name, *times, gain and f"{gain:.2f}x"))
    for name in ("bf16", "fp32"):
        cases = [row[3:7] for row in rows if row[1:3] == ("NHWC", name)]
        for key, way in (("eager", 0), ("compiled", 2)):
            both = [(times[way], times[3]) for times in cases if times[way] and times[3]]
            found[f"{name} {key}"] = ratio(sum(theirs for theirs, _ in both), sum(ours for _, ours in both))
    header = (
        "shape",
        "memory",
        "dtype",
        "eager ms",
        "eager norm, fused mish ms",
        "torch.compile ms",
        "fused ms",
        "eager : fused",
    )
    return f"## Batch norm + Mish, training, forward and backward, batch {batch}\n\n" + table(header, rows)


def _pair_cases(batch: int) -> Iterator[tuple[str, str, tuple[int, int]]]:
    for memory in FORMATS:
        for name in ("bf16", "fp32"):
            for shape in SHAPES:
                if batch * shape[0] * shape[1] ** 2 < 2**29:
                    yield name, memory, shape


def _pair_ways(*, compiled: bool) -> list[Way | None]:
    def native(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        return F.mish(norm(x))

    return [
        native,
        lambda x, norm: mish(norm(x)),
        torch.compile(native, dynamic=False) if compiled else None,
        lambda x, norm: batch_norm_act(x, norm, "mish"),
    ]


def _training_ms(way: Way | None, x: Tensor) -> float | None:
    if way is None:
        return None
    norm, grad = nn.BatchNorm2d(x.shape[1]).to(x.device), torch.randn_like(x)
    leaves = (x, norm.weight, norm.bias)
    return median_ms(lambda: torch.autograd.grad(way(x, norm), leaves, grad), 30)


if __name__ == "__main__":
    main()
