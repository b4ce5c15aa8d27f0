"""A network of yolov4-mish's depth and an eighth of its filters learns with what train.py decides by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import train
from data.sample.make import make_sample
from tests.narrow import narrow
from training.log import read_metrics
from utils.cfg import format_cfg, load_cfg, with_net, with_yolo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread_and_torch_as_it_was", "no_results_png")]


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("narrow") / "narrow.cfg"
    config = with_yolo(narrow(load_cfg("yolov4-mish.cfg"), 8), random="0")
    path.write_text(format_cfg(with_net(config, width=128, height=128)))
    return path


def ap50(cfg: Path, data: Path, out: Path, *flags: object) -> float:
    """AP50 after a training in one process, evaluated once."""
    where = ("--cfg", cfg, "--data", data, "--out", out, "--device", "cpu", "--workers", 0, "--no-scan")
    train.main([str(flag) for flag in (*where, "--eval-interval", 0, *flags)])
    return read_metrics(out / "metrics.jsonl")[-1]["ap50"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_overfits_eight_images(cfg: Path, tmp_path: Path, precision: str) -> None:
    data = make_sample(tmp_path / "data", train=8, val=1, size=(128, 128), seed=0)
    both = data / "instances_train.json"  # one file is both sides
    plain = ("--mosaic", 0, "--set", "hue=0", "--set", "saturation=1", "--set", "exposure=1", "--set", "flip=0")
    still = ("--set", "yolo.jitter=0", "--set", "yolo.resize=1")
    found = ap50(cfg, both, tmp_path / "run", "--iterations", 200, "--precision", precision, *plain, *still)
    assert found > 0.9


@pytest.mark.soak
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_the_sample(cfg: Path, tmp_path: Path, precision: str) -> None:
    data = make_sample(tmp_path / "data", train=200, val=50, size=(256, 256), seed=0)
    assert ap50(cfg, data, tmp_path / "run", "--iterations", 600, "--precision", precision, "--cache", "memory") > 0.4
