"""Which operators are active: load the fused library of a device, prove it on a small case, or say why not.

A library is built and loaded when the first tensor of its device asks for it. Whatever goes wrong there costs one
line on stderr and leaves the native operators at work; only ``set_ops("fused")`` makes it an error.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from models.ops import native
from models.ops.build import build
from models.ops.registration import ops
from utils.compiler import BuildError, opened
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
    has_conv_act: bool = False


_sides: dict[str, Side] = {}
_loading = threading.Lock()


def _checked(mode: str, source: str) -> str:
    if mode not in MODES:
        raise UsageError(f"{source}: {mode!r} (wanted one of {', '.join(MODES)})")
    return mode


def _first_mode() -> str:
    return _checked(os.environ.get(MODE_VARIABLE, "auto"), f"${MODE_VARIABLE}")


_mode = _first_mode()


def set_ops(mode: str) -> None:
    """Choose the operators: "auto" (fused where they work), "native", or "fused" (an error where they do not).

    Raises:
        UsageError: another word. EnvironmentFault: "fused", and a device at hand has no working library.
    """
    global _mode
    _mode = _checked(mode, "--ops")
    if mode == "fused":
        for device in devices():
            _works(device)


def get_ops() -> str:
    """The mode chosen: "auto", "native" or "fused"."""
    return _mode


def devices() -> list[str]:
    """Device types present that fused operators exist for."""
    return ["cpu", "cuda"] if torch.cuda.is_available() and torch.version.cuda else ["cpu"]


def side(device: str) -> Side:
    """The fused operators of a device type, loaded at the first call."""
    if device not in _sides:
        with _loading:  # threads of one process: one loads, the others wait
            if device not in _sides:
                _sides[device] = _load(device)
    return _sides[device]


def _works(device: str) -> bool:
    """Whether there is a library; where "fused" was chosen, by flag or environment, an EnvironmentFault if not."""
    found = side(device)
    if found.library is None and _mode == "fused":
        raise EnvironmentFault(f"--ops fused: {device}: {found.reason}; use --ops auto")
    return found.library is not None


def has_fused(device: str) -> bool:
    """Whether tensors of a device type get the fused operators: the mode allows it and the library works."""
    return _mode != "native" and _works(device)


def fused(x: torch.Tensor) -> bool:
    """Whether the fused operators take ``x``: eager mode, a known dtype, a device whose library works."""
    if _mode == "native" or torch.compiler.is_compiling() or x.dtype not in _DTYPES or x.layout != torch.strided:
        return False
    # torch.func's transforms and forward-mode derivatives look inside an operation; a trace, and thus an export, wants
    # PyTorch's own.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0 or torch.jit.is_tracing():
        return False
    return _works("cpu") if x.is_cpu else x.is_cuda and _works("cuda")


def fused_in_compiled(x: torch.Tensor) -> bool:
    """Whether code under torch.compile calls a fused operator for ``x`` that Inductor has no better code for.

    On a CPU where the library was loaded before: nothing is built or loaded while a compiler looks on.
    """
    if _mode == "native" or not native.compiles() or not x.is_cpu or x.dtype not in _DTYPES:
        return False
    return "cpu" in _sides and _sides["cpu"].library is not None


def has_conv_act() -> bool:
    """Whether ``conv_act`` runs here: the CPU's library works and the processor has AMX."""
    return has_fused("cpu") and side("cpu").has_conv_act


def use_cpu_kernels(name: str) -> str:
    """Switch the CPU side to "plain", "avx2", "avx512" or "avx512bf16", by "" to the fastest; return what is used."""
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
        library = _open(device)
        convolves = device == "cpu" and bool(ctypes.CDLL(str(library)).ops_has_conv_act())
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
            _prove(device)
            if convolves:
                _prove_conv_act()
    except (BuildError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        print(f"yolov4: native operators for {device}: {reason}", file=sys.stderr, flush=True)
        return Side(device, None, reason)
    return Side(device, library, has_conv_act=convolves)


def _open(device: str) -> Path:
    opened(partial(build, device))
    return build(device)


def _prove(device: str) -> None:
    """Compare every operator with PyTorch on small cases; a library that fails here is not used."""
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
            for channels in (16, 7):  # whole registers or packs, and what is left over
                x = torch.linspace(-12, 12, 2 * channels * 12, dtype=torch.float32, device=device)
                x = x.view(2, channels, 4, 3).to(dtype).contiguous(memory_format=memory_format)
                _prove_on(x, tolerance)


def _prove_on(x: torch.Tensor, tolerance: float) -> None:
    wide, grad = x.float(), torch.cos(x)
    mean, variance = native.statistics(wide)
    invstd = (variance + 1e-5).rsqrt()
    pairs = {
        "mish": (ops.mish(x), F.mish(wide)),
        "mish_backward": (ops.mish_backward(grad, x), torch.ops.aten.mish_backward(grad.float(), wide)),
        "bn_stats": (torch.stack(ops.bn_stats(x, None, None, 0.1, 1e-5)), torch.stack((mean, invstd))),
    }
    for name, code in native.ACTIVATIONS.items():
        leaves = [t.clone().requires_grad_() for t in (wide, mean + 0.5, mean)]
        with torch.enable_grad():
            y = native.normalise_and_activate(leaves[0], mean, invstd, leaves[1], leaves[2], code, True)
        grads = torch.autograd.grad(y, leaves, grad.float())
        pairs[name] = (ops.bn_act(x, mean, invstd, mean + 0.5, mean, code, True), y)
        ours = ops.bn_act_backward(grad, x, mean, invstd, mean + 0.5, mean, code, True)
        for part, got, wanted in zip(("x", "weight", "bias"), ours, grads, strict=True):
            pairs[f"{name} backward to {part}"] = (got, wanted)
    for name, (got, wanted) in pairs.items():
        _compare(name, got, wanted, tolerance)


def _prove_conv_act() -> None:
    for channels, kernel, stride in ((3, 3, 1), (40, 3, 2), (64, 1, 1)):
        x = torch.linspace(-3, 3, channels * 70).sin().view(1, channels, 7, 10).bfloat16()
        weights = torch.linspace(-2, 2, 40 * channels * kernel**2).cos().view(40, channels, kernel, kernel).bfloat16()
        bias, padding = torch.linspace(-1, 1, 40), kernel // 2
        wanted = F.mish(F.conv2d(x.float(), weights.float(), bias, stride, padding))
        x = x.contiguous(memory_format=torch.channels_last)
        geometry = (40, kernel, stride, padding, native.ACTIVATIONS["mish"])
        found = ops.conv_act(x, ops.conv_pack(weights), bias, None, *geometry)
        _compare("conv_act", found, wanted, 2e-2)


def _compare(name: str, found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    scale = wanted.abs().max().clamp(min=1.0)
    if not ((found.float() - wanted).abs() <= tolerance * scale).all():
        raise BuildError(f"the smoke test of {name} failed for {found.dtype}")
