"""Which operators are active: load the fused library of a device, prove it on a small case, or say why not.

A library is built and loaded when the first tensor of its device asks for it. Whatever goes wrong there costs one
line on stderr and leaves the native operators at work; only ``set_ops("fused")`` makes it an error.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from models.ops import native, registration
from models.ops.build import BuildError, build
from models.ops.registration import ops
from utils.errors import EnvironmentFault, UsageError

MODES = ("auto", "native", "fused")
MODE_VARIABLE = "YOLOV4_OPS"

_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))


@dataclass(frozen=True)
class Side:
    """One device type's fused operators: the library, or the reason there is none."""

    device: str
    library: Path | None
    reason: str = ""


_sides: dict[str, Side] = {}
_mode = os.environ.get(MODE_VARIABLE, "auto")


def set_ops(mode: str) -> None:
    """Choose the operators: "auto" (fused where they work), "native", or "fused" (an error where they do not).

    Raises:
        UsageError: another word. EnvironmentFault: "fused", and a device at hand has no working library.
    """
    global _mode
    if mode not in MODES:
        raise UsageError(f"--ops: {mode!r} (wanted one of {', '.join(MODES)})")
    _mode = mode
    if mode == "fused":
        for device in devices():
            if side(device).library is None:
                raise EnvironmentFault(f"--ops fused: {device}: {side(device).reason}; use --ops auto")


def get_ops() -> str:
    """The mode chosen: "auto", "native" or "fused"."""
    return _mode


def devices() -> list[str]:
    """Device types present that fused operators exist for."""
    return ["cpu", "cuda"] if torch.cuda.is_available() and torch.version.cuda else ["cpu"]


def side(device: str) -> Side:
    """The fused operators of a device type, loaded at the first call."""
    if device not in _sides:
        _sides[device] = _load(device)
    return _sides[device]


def fused(x: torch.Tensor) -> bool:
    """Whether the fused operators take ``x``: eager mode, a known dtype, a device whose library works."""
    if _mode == "native" or torch.compiler.is_compiling() or x.dtype not in _DTYPES or x.layout != torch.strided:
        return False
    # torch.func's transforms look inside an operation; a trace or an export wants PyTorch's own.
    if torch._C._are_functorch_transforms_active() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():
        return False
    return x.device.type in ("cpu", "cuda") and side(x.device.type).library is not None


def use_cpu_kernels(name: str) -> str:
    """Switch the CPU side to "plain", "avx2" or "avx512"; "" means the fastest. Returns what is used from now on."""
    found = side("cpu")
    if found.library is None:
        return ""
    choose = ctypes.CDLL(str(found.library)).ops_use_kernels
    choose.restype = ctypes.c_char_p
    return choose(name.encode()).decode()


def _load(device: str) -> Side:
    if device == "cuda" and torch.version.cuda is None:
        return Side(device, None, "this torch is not built for CUDA")
    try:
        library = build(device)
        torch.ops.load_library(str(library))
        _prove(device)
    except (BuildError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"yolov4: native operators for {device}: {reason}", file=sys.stderr, flush=True)
        return Side(device, None, reason)
    return Side(device, library)


def _prove(device: str) -> None:
    """Compare with PyTorch on a small case; a library that fails here is not used."""
    x = torch.linspace(-12, 12, 2 * 20 * 3 * 3, device=device).view(2, 20, 3, 3)
    mean, variance = native.statistics(x)
    cases = {
        "mish": (ops.mish(x), torch.nn.functional.mish(x)),
        "bn_stats": (ops.bn_stats(x, None, None, 0.1, 1e-5), (mean, (variance + 1e-5).rsqrt())),
    }
    invstd = cases["bn_stats"][1][1]
    for name, code in native.ACTIVATIONS.items():
        arguments = (x, mean, invstd, mean + 0.5, mean, code, False)
        cases[name] = (ops.bn_act(*arguments), native.normalise_and_activate(*arguments))
    for name, (got, wanted) in cases.items():
        pairs = [(got, wanted)] if isinstance(got, torch.Tensor) else zip(got, wanted, strict=True)
        if not all(torch.allclose(g, w, rtol=1e-4, atol=1e-5) for g, w in pairs):
            raise BuildError(f"the smoke test of {name} failed")


__all__ = ["MODES", "Side", "devices", "fused", "get_ops", "registration", "set_ops", "side", "use_cpu_kernels"]
