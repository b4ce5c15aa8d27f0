"""How far each Mish is from the exact one: ``python -m benchmarks.mish_accuracy [--samples 48000000] [--device cuda]``.

Float32 inputs are spread evenly over the representable numbers of each range, half types are tried with all their
values. The exact result is computed in float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tables import RESULTS, Report, table
from models.ops import mish, native, set_ops
from models.ops.registration import ops

# From where Mish itself is denormal; below -87.3 exp(x) is.
RANGES = ((-91.8, -87.3), (-87.3, -20.0), (-20.0, -5.0), (-5.0, -1.0), (-1.0, -1e-30), (1e-30, 1.0), (1.0, 9.0))
CHUNK = 1 << 20
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.mish": F.mish,
    "fused": mish,
    "x n / (n + 2) in tensor operations": native.one_exponential,
    "x * tanh(softplus(x))": lambda x: x * torch.tanh(F.softplus(x)),
}
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "F.mish": lambda x: torch.ops.aten.mish_backward(torch.ones_like(x), x),
    "fused": lambda x: ops.mish_backward(torch.ones_like(x), x),
}


def main() -> None:
    """Measure and write benchmarks/results/mish_accuracy.md (or mish_accuracy_cuda.md)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mish_accuracy", description=__doc__)
    parser.add_argument("--samples", type=int, default=48_000_000, help="float32 inputs in all (48 million)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    set_ops("fused")
    suffix = "" if options.device == "cpu" else f"_{options.device}"
    report = Report(options.out or RESULTS / f"mish_accuracy{suffix}.md", "Accuracy of Mish", options.device)
    for section in sections(options.samples, options.device):
        report.add(section)


def sections(samples: int, device: str) -> Iterator[str]:
    """The tables: float32 by range, its derivative, every half value."""
    header = ("form", *(f"({low:g}, {high:g}]" for low, high in RANGES))
    each = samples // len(RANGES)
    rows = []
    for form, f in FORMS.items():
        found = [errors(f, exact_mish, units, each, interval, device) for interval in RANGES]
        rows.append((form, *(f"{worst:.2f} [{mean:.2f}]" for worst, mean in found)))
    yield f"## float32: units of the last place, worst [mean], {each * len(RANGES):,} values\n\n" + table(header, rows)
    rows = []
    for form, f in SLOPES.items():
        found = [errors(f, exact_slope, steps, each // 4, interval, device) for interval in RANGES]
        rows.append((form, *(f"{worst:.1f}" for worst, _ in found)))
    yield "## Derivative, float32: worst absolute error in units of 2^-24\n\n" + table(header, rows)
    rows = [(str(dtype)[6:], form, *half_errors(f, dtype, device)) for dtype in HALVES for form, f in FORMS.items()]
    yield "## Every finite half value: units of the last place\n\n" + table(("dtype", "form", "worst", "mean"), rows)


HALVES = (torch.bfloat16, torch.float16)


def errors(
    form: Callable[[Tensor], Tensor],
    exact: Callable[[Tensor], Tensor],
    measure: Callable[[Tensor, Tensor], Tensor],
    count: int,
    interval: tuple[float, float],
    device: str,
) -> tuple[float, float]:
    """Worst and mean error of ``form`` over ``count`` float32 values of the interval."""
    worst = total = 0.0
    for x in float_samples(count, *interval):
        x = x.to(device)
        error = measure(form(x).double(), exact(x))
        worst, total = max(worst, error.max().item()), total + error.sum().item()
    return worst, total / count


def float_samples(count: int, low: float, high: float) -> Iterator[Tensor]:
    """``count`` float32 numbers of one sign, spread evenly over the representable ones between low and high."""
    first, last = (int(torch.tensor(abs(bound)).view(torch.int32)) for bound in (low, high))
    sign = -1.0 if low < 0 else 1.0
    for begin in range(0, count, CHUNK):
        index = torch.arange(begin, min(begin + CHUNK, count), dtype=torch.float64)
        bits = (first + (last - first) * index / max(count - 1, 1)).round().to(torch.int32)
        yield sign * bits.view(torch.float32)


def half_errors(form: Callable[[Tensor], Tensor], dtype: torch.dtype, device: str) -> tuple[float, float]:
    """Worst and mean error over every finite value whose result is a normal number."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
    x = x[x.isfinite()]
    exact = exact_mish(x)
    x, exact = x[keep := exact.abs() > 1e-30], exact[keep]
    error = (form(x).double() - exact).abs() / last_place(exact, dtype)
    return error.max().item(), error.mean().item()


def exact_mish(x: Tensor) -> Tensor:
    """Mish in float64."""
    return native.one_exponential(x.double())


def exact_slope(x: Tensor) -> Tensor:
    """The derivative in float64: tanh(s) + x sigmoid(x) / cosh(s)^2, s = softplus(x)."""
    wide = x.double()
    s = F.softplus(wide, threshold=50)
    return s.tanh() + wide * wide.sigmoid() / s.cosh() ** 2


def units(got: Tensor, exact: Tensor) -> Tensor:
    """Error in units of float32's last place."""
    return (got - exact).abs() / last_place(exact, torch.float32)


def steps(got: Tensor, exact: Tensor) -> Tensor:
    """Error in units of 2^-24."""
    return (got - exact).abs() * 2**24


def last_place(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit of the last place that ``dtype`` has at each value."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(exact.abs().clamp(min=info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(exact, info.eps), exponent)


if __name__ == "__main__":
    main()
