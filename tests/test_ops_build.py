"""Building and loading the fused operators: one build for many processes, and native operators when it fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from models.ops import build, extension, mish, set_ops
from models.ops.__main__ import main
from utils.compiler import CACHE_VARIABLE, BuildError, cache_folder
from utils.errors import EnvironmentFault, UsageError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the compiler's place taken by a script that notes its calls."""
    log, compiler = tmp_path / "calls.txt", tmp_path / "compiler"
    compiler.write_text(
        f'#!/bin/sh\necho call >> {log}\nsleep 0.1\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path


def calls(cache: Path) -> int:
    return len((cache / "calls.txt").read_text().splitlines())


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> dict[str, extension.Side]:
    """The loaded libraries forgotten, for this test only."""
    fresh: dict[str, extension.Side] = {}
    monkeypatch.setattr(extension, "_sides", fresh)
    monkeypatch.setattr(extension, "_mode", "auto")
    return fresh


def test_one_of_many_builds_and_the_others_wait(cache):
    with ThreadPoolExecutor(8) as pool:  # flock keeps threads apart as it does processes: each opens the file itself
        paths = list(pool.map(lambda _: build.build("cpu"), range(8)))
    assert len(set(paths)) == 1 and paths[0].read_text() == "made\n"
    objects, _ = build._flags("cpu")
    assert calls(cache) == len(objects) + 1  # the objects and the link
    assert sorted(p.suffix for p in paths[0].parent.iterdir()) == [".lock", ".so"]  # nothing left lying about


@pytest.mark.slow
def test_one_of_many_processes_builds_even_where_another_was_killed(cache):
    command = [sys.executable, "-c", "from models.ops import build; print(build.build('cpu'))"]
    hanging = cache / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    environment = {**os.environ, "CXX": str(hanging)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as doomed:
        assert "building the fused operators" in doomed.stderr.readline()
        doomed.kill()  # with the lock in its hand, and half a build in the cache
    many = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate() for process in many]
    assert {out for out, _ in answers} == {f"{build.library_path('cpu')}\n"}
    assert sum("building" in err for _, err in answers) == 1
    assert calls(cache) == len(build._flags("cpu")[0]) + 1


def test_a_library_in_the_cache_is_used_until_forced(cache, monkeypatch):
    build.build("cpu")
    before = calls(cache)
    with monkeypatch.context() as only_read:  # a cache that others filled and that cannot be written
        only_read.setattr("utils.compiler._locked", None)
        only_read.setattr("utils.compiler._compile_to", None)
        build.build("cpu")
    assert calls(cache) == before
    build.build("cpu", force=True)
    assert calls(cache) == 2 * before


def test_a_changed_source_or_torch_is_another_library(tmp_path, monkeypatch):
    first = build.library_path("cpu")
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    second = build.library_path("cpu")
    sources = tmp_path / "csrc"
    sources.mkdir()
    for file in build.SOURCES.iterdir():
        (sources / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(build, "SOURCES", sources)
    assert build.library_path("cpu") == second  # wherever the same sources lie
    (sources / "activation.h").write_text("// another\n")
    assert len({first, second, build.library_path("cpu")}) == 3


def test_a_killed_build_leaves_no_library(cache, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.compiler._run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.build("cpu")
    assert not build.library_path("cpu").exists()


def test_what_the_compiler_says_is_the_reason(cache):
    (cache / "compiler").write_text("#!/bin/sh\necho 'note: x' >&2\necho 'a.h:1: fatal error: no a.h' >&2\nexit 1\n")
    with pytest.raises(BuildError, match=r"^compiler: a.h:1: fatal error: no a.h$"):
        build.build("cpu")


def test_a_compiler_that_speaks_another_encoding_or_hangs(cache, monkeypatch):
    (cache / "compiler").write_text("#!/bin/sh\nprintf 'erreur fatale: caf\\351\\n' >&2\nexit 1\n")
    with pytest.raises(BuildError, match=r"^compiler: erreur fatale: caf"):
        build.build("cpu")
    (cache / "compiler").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr("utils.compiler.SLOWEST_BUILD", 0.1)
    with pytest.raises(BuildError, match=r"^compiler did not end within 0.1 seconds$"):
        build.build("cpu")


def test_a_system_without_file_locks(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(BuildError, match="this system has no file locks"):
        build.build("cpu")


def test_a_broken_nvcc_leaves_the_cpu_side_alone(cache, sides, monkeypatch, capsys):
    nvcc = cache / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'nvcc fatal   : Cannot find compiler' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", str(cache), prepend=":")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert extension.side("cuda").reason == "nvcc: nvcc fatal   : Cannot find compiler"
    assert capsys.readouterr().err.splitlines()[1:] == [
        "yolov4: native operators for cuda: nvcc: nvcc fatal   : Cannot find compiler"
    ]
    assert build.build("cpu").exists()


def test_every_kind_of_gpu_at_hand_is_compiled_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: ((9, 0), (8, 6), (9, 0))[i])
    assert build._architectures() == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90,code=sm_90",
    ]


def test_no_compiler(cache, monkeypatch):
    monkeypatch.setenv("PATH", str(cache))
    monkeypatch.delenv("CXX")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found"):
        build.build("cpu")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BuildError, match="no CUDA compiler found"):
        build.build("cuda")


def test_an_old_torch_is_refused():
    with pytest.raises(BuildError, match=r"torch 2.9.1\+cu126 is older than 2.11"):
        build.check_torch("2.9.1+cu126")
    build.check_torch("2.11.0a0+git123")
    build.check_torch("3.0.0")


def test_a_cache_that_cannot_be_written(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(cache / "file" / "below"))
    with pytest.raises(BuildError, match="the cache cannot be used: .*Not a directory"):
        build.build("cpu")


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "yolov4-mish" / "ops"
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(BuildError, match=f"belongs to someone else; set {CACHE_VARIABLE}"):
        cache_folder()
    folder.rename(tmp_path / f"yolov4-mish-ops-{os.getuid() + 1}")  # prepared for, and by, another user
    (tmp_path / f"yolov4-mish-ops-{os.getuid() + 1}").chmod(0o700)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(BuildError, match="belongs to someone else"):
        cache_folder()


def test_failure_is_one_line_and_native_operators(cache, sides, capsys):
    (cache / "compiler").write_text("#!/bin/sh\necho 'error: no' >&2\nexit 1\n")
    x = torch.linspace(-3, 3, 7)
    for _ in range(3):
        assert torch.equal(mish(x), torch.nn.functional.mish(x))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "native" in line] == ["yolov4: native operators for cpu: compiler: error: no"]
    with pytest.raises(EnvironmentFault, match=r"--ops fused: cpu: compiler: error: no; use --ops auto"):
        set_ops("fused")
    extension._mode = "fused"  # as the environment chooses it, when nothing is asked for yet
    with pytest.raises(EnvironmentFault, match="--ops fused: cpu: compiler: error: no"):
        mish(x)


def test_a_library_that_does_not_load(cache, sides, capsys):
    assert extension.side("cpu").library is None  # the script's file is no library
    assert calls(cache) == 2 * (len(build._flags("cpu")[0]) + 1)  # built again, in case it was only damaged
    assert re.search("native operators for cpu: .*(invalid ELF header|file too short)", capsys.readouterr().err)


def test_a_library_that_computes_something_else(sides, monkeypatch, capsys):
    if extension._load("cpu").library is None:
        pytest.skip("no fused operators here")
    monkeypatch.setattr(extension.F, "mish", lambda x: x)
    assert extension.side("cpu").reason == "the smoke test of mish failed for torch.float32"
    assert capsys.readouterr().err.count("\n") == 1


def test_the_smoke_test_does_not_care_who_calls(sides):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = extension.side("cpu")
    assert found.library is not None or "smoke" not in found.reason


def test_cuda_without_a_cuda_torch(sides, monkeypatch, capsys):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert extension.side("cuda") == extension.Side("cuda", None, "this torch is not built for CUDA")
    assert extension.devices() == ["cpu"]


def test_unknown_mode():
    with pytest.raises(UsageError, match=r"--ops: 'fast' \(wanted one of auto, native, fused\)"):
        set_ops("fast")


def test_mode_from_the_environment(monkeypatch):
    monkeypatch.setenv(extension.MODE_VARIABLE, "native")
    assert extension._first_mode() == "native"
    monkeypatch.setenv(extension.MODE_VARIABLE, "no")
    with pytest.raises(UsageError, match=r"\$YOLOV4_OPS: 'no' \(wanted one of"):
        extension._first_mode()


def test_report(capsys):
    mode = extension.get_ops()
    assert main(["--seconds", "0.01"]) == 0
    text = capsys.readouterr().out
    cpu = r"cpu +(fused: (plain|avx2|avx512|avx512bf16) kernels|native: )"
    assert f"mode      {mode}" in text and re.search(cpu, text)
    assert extension.get_ops() == mode


def test_report_without_a_cache(tmp_path, monkeypatch, sides, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    assert main(["--seconds", "0.01"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"cache +none: .*Not a directory", out) and re.search("cpu +native: the cache cannot be used", out)
    assert err.count("\n") == 1


def test_building_ahead(cache, monkeypatch, capsys):
    monkeypatch.setattr("models.ops.__main__.cuda_compiler", lambda: (_ for _ in ()).throw(BuildError("no nvcc")))
    assert main(["--build"]) == 0
    assert "cuda      not built: no nvcc" in capsys.readouterr().out
    (cache / "compiler").write_text("#!/bin/sh\nexit 1\n")
    assert main(["--build", "--force"]) == EnvironmentFault.exit_code
    assert "compiler: no message" in capsys.readouterr().err
