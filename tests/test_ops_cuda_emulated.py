"""The CUDA kernels without a GPU: compiled for the CPU, under an address checker, they pass test_ops_cuda."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from emulated_cuda import HEADER, compile_emulation, rewritten

from models.ops import build
from utils.compiler import BuildError, cuda_compiler

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def address_checker() -> str:
    """The library that has to be loaded first; skips where nvcc or it is missing."""
    try:
        cuda_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("no libasan.so")
    return found


@pytest.mark.soak
def test_kernels_on_the_cpu(address_checker, tmp_path):
    checker = {"LD_PRELOAD": address_checker, "ASAN_OPTIONS": "detect_leaks=0"}
    library = {"YOLOV4_EMULATED_CUDA": str(compile_emulation(tmp_path))}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests/test_ops_cuda.py"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **checker, **library}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 100


def test_every_change_of_the_text_is_still_needed():
    names = (*build._HEADERS, *build._SIDE_SOURCES["cuda"])
    sources = {name: (build.SOURCES / name).read_text() for name in names}
    changed = rewritten(sources)
    assert "<<<" not in "".join(changed.values()) and "asm(" not in "".join(changed.values())
    with pytest.raises(AssertionError, match="found 5 times"):
        rewritten({**sources, "cuda_ops.cu": sources["cuda_ops.cu"].replace("<<<", "(", 1)})
    assert HEADER.exists()
