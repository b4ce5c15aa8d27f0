"""The operators in PyTorch's own: the fallback everywhere, the path under torch.compile, the oracle of the tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {"mish": 0, "leaky": 1, "relu": 2, "swish": 3, "linear": 4, "identity": 4}
"""Darknet's names, and the codes of csrc/extent.h."""

_TAKES_ITSELF_FOR_EXPORT = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)


def one_exponential(x: Tensor) -> Tensor:
    """Mish with one exponential, x n / (n + 2), n = e(e + 2): what a compiler should see.

    Inductor turns F.mish into log1p and tanh, which cost it twice the time of this on a CPU.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    e = torch.exp(wide.clamp(max=20.0))
    n = e * (e + 2.0)
    return (wide * (n / (n + 2.0))).to(x.dtype)


def compiles() -> bool:
    """Whether torch.compile looks on, and no export; before torch 2.12 it takes itself for one."""
    if _TAKES_ITSELF_FOR_EXPORT:
        return torch.compiler.is_dynamo_compiling()
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def mish(x: Tensor) -> Tensor:
    """x tanh(softplus(x)); F.mish in eager mode and for export, where it becomes ONNX's standard operator."""
    if compiles():
        return one_exponential(x)
    return F.mish(x)


def activate(x: Tensor, activation: str, *, inplace: bool = False) -> Tensor:
    """Apply a Darknet activation by name; with ``inplace`` x may be overwritten (a compiler decides for itself)."""
    inplace = inplace and not torch.compiler.is_compiling()
    if activation == "mish":
        return F.mish(x, inplace=True) if inplace else mish(x)
    if activation == "leaky":
        return F.leaky_relu(x, 0.1, inplace=inplace)
    if activation == "relu":
        return F.relu(x, inplace=inplace)
    if activation == "swish":
        return F.silu(x, inplace=inplace)
    return x


def across_channels(values: Tensor, x: Tensor) -> Tensor:
    """(C,) -> (C, 1, ...), to broadcast over x of (N, C, ...)."""
    return values.view(-1, *[1] * (x.dim() - 2))


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of x (N, C, ...)."""
    dims = [d for d in range(x.dim()) if d != 1]
    variance, mean = torch.var_mean(x, dims, correction=0)
    return mean, variance


def normalise_and_activate(
    x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, bias: Tensor | None, code: int, training: bool
) -> Tensor:
    """What ``bn_act`` computes, in differentiable tensor operations.

    With ``training`` the mean and the deviation are functions of x, as the derivative must see them; eps is what
    ``invstd`` says it was.
    """
    wide = x.to(mean.dtype)
    if training:
        mean, variance = statistics(wide)
        eps = (invstd.pow(-2) - variance).detach()
        invstd = (variance + eps).rsqrt()
    z = (wide - across_channels(mean, x)) * across_channels(invstd, x)
    if weight is not None:
        z = z * across_channels(weight, x)
    if bias is not None:
        z = z + across_channels(bias, x)
    return activate(z, next(name for name, known in ACTIVATIONS.items() if known == code)).to(x.dtype)
