"""What the tests of the fused operators share: float64 oracles, awkward tensors, each instruction set in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.ops.extension import side, use_cpu_kernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def needs_fused(device: str = "cpu") -> None:
    """Skip where the fused operators of ``device`` cannot be built."""
    if side(device).library is None:
        pytest.skip(f"native operators: {side(device).reason}")


@pytest.fixture(params=["plain", "avx2", "avx512", "avx512bf16"])
def cpu_kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set this processor has."""
    needs_fused()
    if use_cpu_kernels(request.param) != request.param:
        use_cpu_kernels("")
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    use_cpu_kernels("")


def exact_mish(x: Tensor) -> Tensor:
    """Mish in float64; x n / (n + 2) loses nothing for negative x, and the clamp nothing for positive."""
    wide = x.double()
    e = wide.clamp(max=25.0).exp()
    n = e * (e + 2)
    return wide * (n / (n + 2))


def exact_slope(x: Tensor) -> Tensor:
    """The derivative of Mish in float64: tanh(s) + x sigmoid(x) / cosh(s)^2, s = softplus(x)."""
    wide = x.double()
    s = torch.nn.functional.softplus(wide, threshold=50)
    return s.tanh() + wide * wide.sigmoid() / s.clamp(max=300).cosh() ** 2


def last_place(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit of the last place that ``dtype`` has at each value of ``exact`` (float64)."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(exact.abs().clamp(min=info.tiny)).exponent - 1
    return torch.ldexp(torch.full_like(exact, info.eps), exponent)


def awkward(kind: str, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Tensors whose memory is not one plain block."""
    base = torch.randn(6, 10, 7, 9, dtype=torch.float64, device=device).mul(4).to(dtype)
    return {
        "contiguous": lambda: base,
        "channels_last": lambda: base.contiguous(memory_format=torch.channels_last),
        "strided": lambda: base[:, ::3, :, 1::2],
        "transposed": lambda: base.transpose(0, 3),
        "expanded": lambda: base[:1].expand(4, -1, -1, -1),
        "overlapping": lambda: base.flatten().as_strided((20, 8), (3, 1)),
        "offset": lambda: base.flatten()[1:],
        "scalar": lambda: base[0, 0, 0, 0],
        "single": lambda: base[:1, :1, :1, :1],
        "empty": lambda: base[:0],
        "flipped": lambda: base.flatten()[: 16 * 5 + 3].flip(0),
    }[kind]()


AWKWARD = (
    "contiguous",
    "channels_last",
    "strided",
    "transposed",
    "expanded",
    "overlapping",
    "offset",
    "scalar",
    "single",
    "empty",
    "flipped",
)
