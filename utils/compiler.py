"""Compile C++ or CUDA into a library, once a user and machine, in a cache that many processes may share.

A library is built beside its final name under a file lock and moved there in one step: a reader sees the whole library
or none. Its name must change with everything that it depends on.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

CACHE_VARIABLE = "YOLOV4_OPS_CACHE"
SLOWEST_BUILD = 900  # seconds for one file; a compiler that takes longer hangs


class BuildError(RuntimeError):
    """Why a library cannot be built, in one line."""


class Plan(NamedTuple):
    """How a library is made.

    Attributes:
        compiler: its path.
        objects: the flags and the source of each object file.
        link: the flags of the link.
    """

    compiler: str
    objects: list[list[str]]
    link: list[str]


def compiled(target: Path, plan: Callable[[], Plan], *, what: str, force: bool = False) -> Path:
    """Return ``target``, a library in the cache, compiling it when it is not there.

    Args:
        plan: asked for when there is something to do.
        what: it is, for the line that says so.

    Raises:
        BuildError: no compiler, no writable cache, or the compiler refused.
    """
    try:
        if target.exists() and not force:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if force or not target.exists():  # another process may have built it while this one waited
                _compile_to(target, plan(), what)
    except OSError as error:
        raise BuildError(f"the cache cannot be used: {error}") from error
    return target


def opened(make: Callable[..., Path]) -> ctypes.CDLL:
    """Load the library of ``make()``, or of ``make(force=True)`` where that is damaged or misses what it links."""
    try:
        return ctypes.CDLL(str(make()))
    except OSError:
        return ctypes.CDLL(str(make(force=True)))


def cache_folder() -> Path:
    """The per-user cache: $YOLOV4_OPS_CACHE, else $XDG_CACHE_HOME or ~/.cache, else a private temporary folder.

    Raises:
        BuildError: none of them can be had.
    """
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    with contextlib.suppress(RuntimeError, OSError):  # no home, or one that cannot be written
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "yolov4-mish" / "ops"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    try:
        return _private_temporary_folder()
    except OSError as error:
        raise BuildError(f"the cache cannot be used: {error}") from error


def cxx_compiler() -> str:
    """The path of the C++ compiler: $CXX, else g++ or c++."""
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


def _compile_to(target: Path, plan: Plan, what: str) -> None:
    print(f"yolov4: building {what}, once ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as work:
        commands = [[plan.compiler, *flags, "-o", str(Path(work) / f"{i}.o")] for i, flags in enumerate(plan.objects)]
        with ThreadPoolExecutor(len(commands)) as pool:
            list(pool.map(_run, commands))
        library = Path(work) / target.name
        _run([plan.compiler, *(command[-1] for command in commands), *plan.link, "-o", str(library)])
        library.replace(target)


def _run(command: list[str]) -> None:
    name = Path(command[0]).name
    try:  # a compiler may answer in any encoding
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SLOWEST_BUILD)
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{name} did not end within {SLOWEST_BUILD} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise BuildError(f"{name}: {(lines or ['no message'])[0].strip()}")
