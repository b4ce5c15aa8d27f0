"""train.py, eval.py and detect.py with the heads that are not [yolo]."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import detect
import eval as eval_script
import train
from tests.painted import CFG
from training.log import read_metrics

BODY = CFG[: CFG.index("[convolutional]\nfilters=14")]
LAST = "[convolutional]\nfilters={}\nactivation=linear\n"
YOLO = CFG[CFG.index("[yolo]") :]
REGION = (
    LAST.format(14)
    + """[region]
anchors=2,2, 3.25,3.25
bias_match=1
classes=2
num=2
softmax=1
jitter=.05
object_scale=5
thresh=.6
"""
)
GAUSSIAN = LAST.format(22) + YOLO.replace("[yolo]", "[Gaussian_yolo]") + "iou_thresh=0.2\nmax_delta=5\n"
CONTRASTIVE = LAST.format(14) + YOLO + "[route]\nlayers=-3\n" + LAST.format(16) + "[contrastive]\nyolo_layer=-3\n"


def flags(painted: Path, cfg: Path, *more: object) -> list[str]:
    fixed = ("--cfg", cfg, "--data", painted, "--device", "cpu", "--precision", "fp32", "--workers", 0)
    return [str(flag) for flag in (*fixed, *more)]


@pytest.mark.parametrize(("head", "least"), [(REGION, 0.8), (GAUSSIAN, 0.8)], ids=["region", "Gaussian_yolo"])
def test_a_network_learns_its_images(painted: Path, tmp_path: Path, head: str, least: float) -> None:
    cfg = tmp_path / "other.cfg"
    cfg.write_text(BODY + head)
    out = tmp_path / "run"
    length = ("--iterations", 240, "--eval-interval", 240, "--mosaic", 0, "--no-scan")
    train.main(flags(painted, cfg, "--out", out, *length, "--set", "burn_in=12", "--set", "learning_rate=0.005"))
    last = read_metrics(out / "metrics.jsonl")[-1]
    assert last["ap50"] > least

    measured = tmp_path / "metrics.json"
    eval_script.main(flags(painted, cfg, "--weights", out / "best.weights", "--json", measured))
    assert json.loads(measured.read_text())["ap50"] == pytest.approx(last["ap50"], abs=0.02)

    found = tmp_path / "found.json"
    source = ("--names", painted / "painted.names", "--source", painted / "val" / "00.png", "--json", found)
    detect_flags = ("--cfg", cfg, "--weights", out / "best.weights", "--device", "cpu", "--out", tmp_path / "drawn")
    detect.main([str(flag) for flag in (*detect_flags, *source)])
    (frame,) = json.loads(found.read_text())["frames"]
    assert {detection["name"] for detection in frame["detections"]} <= {"red", "blue"}
    assert frame["detections"]


def test_embeddings_train_beside_a_head(painted: Path, tmp_path: Path) -> None:
    cfg = tmp_path / "other.cfg"
    cfg.write_text(BODY + CONTRASTIVE)
    train.main(flags(painted, cfg, "--out", tmp_path / "run", "--iterations", 2, "--no-scan"))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["iteration"] for row in rows if "loss" in row] == [1, 2]
