"""Compile the fused operators, once a user and machine, into a cache that many processes may share.

A library is named by a hash of everything it depends on, built beside its final name under a file lock and moved
there in one step: a reader sees the whole library or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "csrc"
CACHE_VARIABLE = "YOLOV4_OPS_CACHE"
OLDEST_TORCH = (2, 11)  # the first with every stable-ABI function used here
SLOWEST_BUILD = 900  # seconds for one file; a compiler that takes longer hangs

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


class BuildError(RuntimeError):
    """Why a side cannot be built, in one line."""


def build(side: str, *, force: bool = False) -> Path:
    """Return the library of ``side`` ("cpu" or "cuda"), compiling it when the cache does not hold it.

    Raises:
        BuildError: no compiler, no writable cache, or the compiler refused.
    """
    try:
        check_torch(torch.__version__)
        target = library_path(side)
        if target.exists() and not force:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if force or not target.exists():  # another process may have built it while this one waited
                _compile_to(side, target)
    except OSError as error:
        raise BuildError(f"the cache cannot be used: {error}") from error
    return target


def check_torch(version: str) -> None:
    """Raise BuildError for a torch without the stable ABI that the sources are written against."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TORCH:
        raise BuildError(f"torch {version} is older than {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}")


def library_path(side: str) -> Path:
    """Where the library of ``side`` lies, built or not: its name changes with sources, flags, torch, CUDA and CPU."""
    digest = hashlib.sha256()
    for name in (*_HEADERS, *_SIDE_SOURCES[side]):
        digest.update((SOURCES / name).read_bytes())
    for part in (torch.__version__, torch.version.cuda, platform.machine(), sys.platform, *_plan(side)):
        digest.update(repr(part).encode())
    return cache_folder() / f"{side}-{digest.hexdigest()[:16]}.so"


def cache_folder() -> Path:
    """The per-user cache: $YOLOV4_OPS_CACHE, else $XDG_CACHE_HOME or ~/.cache, else a private temporary folder."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    with contextlib.suppress(RuntimeError, OSError):  # no home, or one that cannot be written
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "yolov4-mish" / "ops"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return _private_temporary_folder()


def _private_temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"yolov4-mish-ops-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # Code is loaded from here: nobody else may have prepared it.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BuildError(f"{folder} belongs to someone else; set {CACHE_VARIABLE}")
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError as error:
        raise BuildError("this system has no file locks") from error
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile_to(side: str, target: Path) -> None:
    compiler = _compiler(side)
    print(f"yolov4: building the fused operators for {side}, once ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as work:
        objects, link = _plan(side)
        commands = [[compiler, *flags, "-o", str(Path(work) / f"{i}.o")] for i, flags in enumerate(objects)]
        with ThreadPoolExecutor(len(commands)) as pool:
            list(pool.map(_run, commands))
        library = Path(work) / target.name
        _run([compiler, *(command[-1] for command in commands), *link, "-o", str(library)])
        library.replace(target)


def _compiler(side: str) -> str:
    if side == "cuda":
        return cuda_compiler()
    for name in (os.environ.get("CXX"), "g++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    raise BuildError("no C++ compiler found (g++)")


def cuda_compiler() -> str:
    """The path of nvcc: on PATH, or in $CUDA_HOME or /usr/local/cuda."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    for name in ("nvcc", *(str(Path(home) / "bin" / "nvcc") for home in homes if home)):
        if found := shutil.which(name):
            return found
    raise BuildError("no CUDA compiler found (nvcc)")


def _plan(side: str) -> tuple[list[list[str]], list[str]]:
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


def _run(command: list[str]) -> None:
    name = Path(command[0]).name
    try:  # a compiler may answer in any encoding
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SLOWEST_BUILD)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{name} did not end within {SLOWEST_BUILD} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise BuildError(f"{name}: {(lines or ['no message'])[0].strip()}")
