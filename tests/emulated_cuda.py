"""The CUDA kernels compiled as plain C++ and registered for CPU tensors: launch shapes, indices and arithmetic tested
without a GPU. ``cuda_on_cpu.h`` plays the GPU; here the text is changed where a header cannot change it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from models.ops import build
from utils.compiler import cuda_compiler

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
SANITIZERS = ("-fsanitize=address", "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
"""Reads and writes beside a tensor, and packs at addresses that are no multiple of 16, end the program."""

_CHANGES = (
    (r"(?m)^(\s*)(\S[^\n]*?)<<<(.*?)>>>\(", r"\1on_cpu(\2, \3)(", 6),  # launches
    (r'asm\("(\S+) [^"]*" : "[+=]f"\((\w+)\) : "f"\((\w+)\)\);', r'ptx("\1", \2, \3);', 4),
    (r"#if __CUDA_ARCH__ >= 800", "#if 1", 2),
    (r"STD_CUDA_KERNEL_LAUNCH_CHECK\(\)", "emulated::check_launch()", 4),
    (
        r"(?s)struct Launch \{.*?\n\};",
        "struct Launch {\n  cudaStream_t stream = nullptr;\n  int processors = 132;\n"
        "  explicit Launch(const Tensor&) {}\n};",
        1,
    ),
    (r"STABLE_TORCH_LIBRARY_IMPL\(yolov4_mish, CUDA, m\)", "STABLE_TORCH_LIBRARY_IMPL(yolov4_mish, CPU, m)", 1),
)


def rewritten(sources: dict[str, str]) -> dict[str, str]:
    """The sources as C++; every change must apply as often as it did when it was written."""
    sources = dict(sources)
    for pattern, replacement, wanted in _CHANGES:
        found = 0
        for name, text in sources.items():
            sources[name], count = re.subn(pattern, replacement, text)
            found += count
        if found != wanted:
            raise AssertionError(f"{pattern!r}: found {found} times (wanted {wanted}); adapt tests/emulated_cuda.py")
    return sources


def compile_emulation(folder: Path) -> Path:
    """Build the library in ``folder``. nvcc drives the host's compiler, as it knows where CUDA's headers lie."""
    names = (*build._HEADERS, *build._SIDE_SOURCES["cuda"])
    for name, text in rewritten({name: (build.SOURCES / name).read_text() for name in names}).items():
        (folder / name).write_text(text)
    (folder / "cuda_ops.cpp").write_text('#include "cuda_ops.cu"\n')
    _, link = build._flags("cpu")
    host = ["-fPIC", "-march=native", "-ffp-contract=fast", "-w", *SANITIZERS]
    include = ["-isystem", str(Path(build.torch.__file__).parent / "include"), build._TARGET, "-DUSE_CUDA"]
    library = folder / "emulated.so"
    compiler = [cuda_compiler(), "-x", "c++", "-std=c++20", "-O1", "-include", str(HEADER)]
    command = [*compiler, *(f"-Xcompiler={flag}" for flag in host), *include, "-o", str(library), *link]
    subprocess.run([*command, str(folder / "cuda_ops.cpp")], check=True)
    return library
