"""Which sources and flags make the fused operators of a device; `utils.compiler` compiles them."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path

import torch

from utils.compiler import BuildError, Plan, cache_folder, compiled, cuda_compiler, cxx_compiler

SOURCES = Path(__file__).parent / "csrc"
OLDEST_TORCH = (2, 11)  # the first with every stable-ABI function used here

_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # 2.11: the library also loads in every later torch
_HEADERS = ("activation.h", "extent.h", "tensors.h")
_SIDE_SOURCES = {
    "cpu": (
        *("cpu_kernels.h", "cpu_kernels.cpp", "cpu_math.h", "cpu_ops.cpp", "simd.h"),
        *("amx_conv.cpp", "amx_input.h", "conv.h", "conv_ops.cpp"),
    ),
    "cuda": ("cuda_math.cuh", "cuda_kernels.cuh", "cuda_ops.cu"),
}
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c")
_INSTRUCTION_SETS = {
    "plain": (16, ()),
    "avx2": (32, ("-mavx2", "-mfma", "-mf16c")),
    "avx512": (64, _AVX512),
    "avx512bf16": (64, (*_AVX512, "-mavx512bf16")),
}
_AMX = (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16")


def build(side: str, *, force: bool = False) -> Path:
    """Return the library of ``side`` ("cpu" or "cuda"), compiling it when the cache does not hold it.

    Raises:
        BuildError: no compiler, no writable cache, or the compiler refused.
    """
    check_torch(torch.__version__)
    return compiled(library_path(side), lambda: _plan(side), what=f"the fused operators for {side}", force=force)


def check_torch(version: str) -> None:
    """Raise BuildError for a torch without the stable ABI that the sources are written against."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise BuildError(f"torch {version} is older than {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}")


def library_path(side: str) -> Path:
    """Where the library of ``side`` lies, built or not: its name changes with sources, flags, torch, CUDA and CPU.

    Where sources and torch lie makes no difference: two checkouts share a library.
    """
    digest = hashlib.sha256()
    for name in (*_HEADERS, *_SIDE_SOURCES[side]):
        digest.update((SOURCES / name).read_bytes())
    for part in (torch.__version__, torch.version.cuda, platform.machine(), sys.platform, *_flags(side)):
        digest.update(_without(repr(part), SOURCES, Path(torch.__file__).parent).encode())
    return cache_folder() / f"{side}-{digest.hexdigest()[:16]}.so"


def _without(text: str, *folders: Path) -> str:
    """``text`` without these paths."""
    for folder in folders:
        text = text.replace(str(folder), "")
    return text


def _plan(side: str) -> Plan:
    return Plan(cuda_compiler() if side == "cuda" else cxx_compiler(), *_flags(side))


def _flags(side: str) -> tuple[list[list[str]], list[str]]:
    """Flags of each object file to compile, and of the link."""
    torch_folder = Path(torch.__file__).parent
    include = ["-isystem", str(torch_folder / "include"), _TARGET]
    libraries = ["-shared", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    if side == "cuda":
        flags = ["-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-DUSE_CUDA", *_architectures()]
        return [[*flags, *include, "-c", str(SOURCES / "cuda_ops.cu")]], [*libraries, "-ltorch_cuda"]
    flags = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden"]
    x86 = platform.machine() in ("x86_64", "AMD64")
    objects = [[*flags, *include, "-c", str(SOURCES / name)] for name in ("cpu_ops.cpp", "conv_ops.cpp")]
    if x86:
        objects.append([*flags, *_AMX, "-DOPS_ISA=amx", "-DOPS_BYTES=64", "-c", str(SOURCES / "amx_conv.cpp")])
    for name, (width, machine) in _INSTRUCTION_SETS.items():
        if name == "plain" or x86:
            defines = [f"-DOPS_ISA={name}", f'-DOPS_NAME="{name}"', f"-DOPS_BYTES={width}"]
            objects.append([*flags, *machine, *defines, "-c", str(SOURCES / "cpu_kernels.cpp")])
    return objects, libraries


def _architectures() -> list[str]:
    """Every kind of GPU at hand, or, where there is none, Ampere and Hopper, and PTX for later ones."""
    if torch.cuda.is_available():
        kinds = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return [f"-gencode=arch=compute_{a}{b},code=sm_{a}{b}" for a, b in sorted(kinds)]
    return ["-gencode=arch=compute_80,code=[sm_80,sm_90,compute_80]"]  # one run of the front end for all
