"""Which device computes, and in which precision."""

from __future__ import annotations

import contextlib

import torch

from utils.errors import EnvironmentFault, UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str = "auto") -> torch.device:
    """``auto`` takes the first GPU where there is one; a device that is not there is an EnvironmentFault."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: no such kind of device (wanted auto, cpu, cuda, cuda:0 ...)") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise EnvironmentFault(f"--device {name}: torch sees {found} GPUs here; use --device cpu or check the driver")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: this project runs on cpu and cuda")
    return device


WORTH_BF16 = 3e9
"""Operations an image from which bf16 halves the time on a CPU. Smaller networks, mostly depthwise convolutions and
moving of memory, gain a quarter; they keep fp32 and with it Darknet's own numbers."""


def resolve_precision(
    name: str, device: torch.device, *, training: bool = False, operations: float = 0.0
) -> torch.dtype:
    """The dtype of the network's inside.

    ``auto`` is bf16 (or fp16) on a GPU. On a CPU that multiplies in bf16 (AVX512-BF16 or AMX) it is bf16 for training,
    and for inference with a network of ``WORTH_BF16`` or more; else fp32, which gives Darknet's own numbers.

    Args:
        operations: multiplications and additions for one image (``Graph.operations``).
    """
    if name == "auto":
        if device.type == "cpu":
            pays = training or operations >= WORTH_BF16
            return torch.bfloat16 if pays and _cpu_multiplies_bf16() else torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if name == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16: half precision needs a GPU; on a CPU use bf16 or fp32")
    return _DTYPES[name]


def _cpu_multiplies_bf16() -> bool:
    """Whether bf16 products are instructions here; elsewhere they are emulated and slower than fp32."""
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # new in torch 2.12
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))


def precision_name(dtype: torch.dtype) -> str:
    """fp32, bf16 or fp16."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for training: nothing for fp32, else torch.autocast."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def make_repeatable(seed: int, device: torch.device) -> None:
    """Let the same run give the same numbers: to the bit on a CPU, in the order of the data on a GPU."""
    torch.manual_seed(seed)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        # nothing here reads memory it did not write
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    else:
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
