"""benchmarks.on_gpu without a GPU: every section is written, numbers that are missing are "not measured"."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ops_cases import needs_fused

from benchmarks import gpu_network, gpu_timing, on_gpu, tables
from benchmarks.gpu_targets import TARGETS, ratio, targets
from benchmarks.gpu_timing import Clock
from utils.cfg import load_cfg, with_size

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("albumentations", "av", "pycocotools", "faster_coco_eval", "hypothesis", "pandas", "onnx")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A tiny benchmark on the CPU; the argument is what every call is said to take."""
    needs_fused()
    memory = {"fresh_memory": lambda: None, "peak_bytes": lambda: 2**30, "all_bytes": lambda: 2**33}
    for name, value in memory.items():
        monkeypatch.setattr(gpu_timing, name, value)
        monkeypatch.setattr(gpu_network, name, value)
    monkeypatch.setattr(gpu_timing, "DEVICE", "cpu")
    monkeypatch.setattr(tables, "others_share", lambda: 0.0)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(on_gpu, "copy_bandwidth", lambda: 1e12)
    monkeypatch.setattr(on_gpu, "ELEMENTS", 1000)
    monkeypatch.setattr(on_gpu, "SAMPLES", 600)
    monkeypatch.setattr(on_gpu, "SHAPES", ((8, 4), (128, 3)))
    tiny = with_size(load_cfg("yolov4-tiny.cfg"), (64, 64))
    monkeypatch.setattr(gpu_network, "networks", lambda: dict.fromkeys(("yolov4.cfg", "all Mish", "all ReLU"), tiny))

    def takes(milliseconds: float) -> None:
        def median_ms(work: Callable[[], object], rounds: int = 0, *, graph: bool = True) -> float:
            work()
            return milliseconds

        for module in (on_gpu, gpu_network):
            monkeypatch.setattr(module, "median_ms", median_ms)

    return takes


@pytest.mark.filterwarnings("default")
def test_every_section_is_written(small, tmp_path, monkeypatch):
    small(1.0)
    tried = []

    def step(config: object, batch: int, mode: str, rounds: int = 8) -> tuple[float, int]:
        tried.append(batch)
        if batch > 48:
            raise torch.cuda.OutOfMemoryError("too much")
        return real_step(config, 1, mode, rounds)

    real_step = gpu_network.step
    monkeypatch.setattr(gpu_network, "step", step)
    on_gpu.measure(tmp_path, Clock(3600))
    text = (tmp_path / "ops_gpu.md").read_text()
    for section in (
        "Pointwise, 1,000",
        "Kept for backward",
        "batch 32",
        "Targets",
        "batch 16, 64",
        "Largest",
        "batch 64",
    ):
        assert section in text
    assert "| yolov4.cfg | 48 | 48 |" in text  # the largest batch, found by trying
    (section,) = (part for part in text.split("## ") if part.startswith("Targets"))
    assert "not measured" not in section and section.count("\n| ") == len(TARGETS) + 2
    assert "| 64 | yolov4.cfg | native | not measured | not measured |" in text  # 64 images were too many
    assert "Every finite half value" in (tmp_path / "mish_accuracy_cuda.md").read_text()


def test_out_of_time_is_not_measured(small, tmp_path):
    small(1.0)
    on_gpu.measure(tmp_path, Clock(0))
    text = (tmp_path / "ops_gpu.md").read_text()
    (section,) = (part for part in text.split("## ") if part.startswith("Targets"))
    assert section.count("not measured") == len(TARGETS)
    assert "not measured" in (tmp_path / "mish_accuracy_cuda.md").read_text()


def test_the_memory_checker_has_every_kernel_to_look_at(small):
    small(1.0)
    on_gpu.touch_every_kernel()


def test_what_a_target_says():
    found = {"bf16 eager": 2.3, "fp32 eager": 1.5, "kept": 0.66, "peak": 0.81, "step": 1.09}
    lines = {line.split(" | ")[0][2:]: line for line in targets(found).splitlines() if line.startswith("| ")}
    assert "| 2.30 / 1.50 | must |" in lines["batch norm + Mish, bf16 / fp32: times as fast as eager"]
    assert lines["saved activation bytes, yolov4.cfg bf16, of eager's"].endswith("| 0.72 | 0.67 | 0.66 | aim |")
    assert lines["peak memory, yolov4.cfg bf16 batch 32, of eager's"].endswith("| 0.81 | missed |")
    assert lines["training step, yolov4.cfg bf16 batch 32: times as fast as eager"].endswith("| 1.09 | must |")
    assert lines["step of all-Mish, of the time with native ReLU"].endswith("| not measured | - |")
    assert ratio(3.0, None) is None and ratio(None, 3.0) is None and ratio(3.0, 2.0) == 1.5


def test_what_fails_is_not_measured(capsys, monkeypatch):
    monkeypatch.setattr(gpu_timing, "fresh_memory", lambda: None)

    def fails(error: type[RuntimeError]) -> None:
        raise error("too much\nof it")

    assert gpu_timing.attempt(fails, torch.cuda.OutOfMemoryError) is None
    assert gpu_timing.attempt(lambda: 3) == 3
    assert capsys.readouterr().out == "not measured: too much\n"


def test_it_needs_no_package_beside_torch_and_says_that_there_is_no_gpu(tmp_path):
    """The command's modules and tests, with the other packages hidden."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {ABSENT}:\n"
        "            raise ModuleNotFoundError(f'hidden: {name}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    hidden = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": ""}
    code = "import benchmarks.on_gpu, models.ops.__main__, test_ops_cuda; import hypothesis"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: hidden: hypothesis"  # the last import, on purpose
    shell = {**hidden, "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    done = subprocess.run(["benchmarks/on_gpu.sh"], cwd=ROOT, env=shell, capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.splitlines()[-1] == "no GPU that torch can use"
    assert not (tmp_path / "out").exists()
