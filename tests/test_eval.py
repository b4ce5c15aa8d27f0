"""eval.py as its users run it, on a data set of four painted images and a network of three layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import eval as eval_script
from evaluation.coco_files import evaluate_files
from models.darknet import Darknet
from models.weights import save_darknet_weights
from utils import cli
from utils.cfg import parse_cfg
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was")

ROOT = Path(__file__).resolve().parents[1]
CFG = """
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=32
pad=1
activation=mish
[convolutional]
filters=14
size=1
stride=1
activation=linear
[yolo]
mask=0,1
anchors=20,20, 40,40
classes=2
num=2
"""
CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 30, "name": "square"}]


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """A COCO folder with one object in each of four images, a cfg and random weights."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "images").mkdir()
    images, annotations = [], []
    rng = np.random.default_rng(0)
    for image_id in (11, 2, 35, 40):
        image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        (folder / "images" / f"{image_id}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 80, "height": 60})
        box = {"bbox": [10, 10, 30, 30], "area": 700, "iscrowd": 0}
        annotations.append({"id": len(images), "image_id": image_id, "category_id": (7, 30)[image_id % 2], **box})
    coco = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    for split in ("train", "val"):
        (folder / f"instances_{split}.json").write_text(json.dumps(coco))
    (folder / "tiny.cfg").write_text(CFG)
    torch.manual_seed(0)
    save_darknet_weights(Darknet(parse_cfg(CFG)), folder / "tiny.weights", seen=0)
    return folder


def run_eval(case: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "eval.py"), "--data", str(case), "--device", "cpu", "--workers", "0", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=case)


def network_flags(case: Path) -> tuple[str, ...]:
    return ("--cfg", str(case / "tiny.cfg"), "--weights", str(case / "tiny.weights"))


def test_the_script_measures_and_writes_everything(case):
    out = case / "out"
    flags = (
        "--json",
        "out/a.json",
        "--save-results",
        "out/r.json",
        "--plots",
        "out/plots",
        "--score-threshold",
        "0.01",
        "--max-detections",
        "3",
    )
    done = run_eval(case, *network_flags(case), *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.index("AP50") < done.stdout.index("average recall")
    assert "images/s" in done.stdout

    numbers = json.loads((out / "a.json").read_text())
    keys = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
    keys += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]
    extra = ["per_class", "images", "images_per_second", "score_threshold", "nms_threshold", "max_detections"]
    assert list(numbers) == keys + extra
    assert numbers["images"] == 4 and numbers["score_threshold"] == 0.01 and numbers["nms_threshold"] == 0.45
    assert set(numbers["per_class"]) == {"disc", "square"}

    results = json.loads((out / "r.json").read_text())
    assert {result["image_id"] for result in results} == {2, 11, 35, 40}
    assert len(results) == 4 * 3
    assert {result["category_id"] for result in results} <= {7, 30}
    for left, top, width, height in (result["bbox"] for result in results):
        assert left >= 0 and top >= 0 and left + width <= 80.01 and top + height <= 60.01  # clipped to the image

    again = evaluate_files(case / "instances_val.json", out / "r.json")
    assert again.ap == pytest.approx(numbers["ap"], abs=1e-4)
    for name in ("precision_recall.png", "confusion.png", "worst_01.png"):
        assert (out / "plots" / name).read_bytes()[:4] == b"\x89PNG"
    assert not list(out.glob("*.tmp"))


def test_results_of_another_detector(case):
    results = [
        {"image_id": image_id, "category_id": (7, 30)[image_id % 2], "bbox": [10, 10, 30, 30], "score": 0.9}
        for image_id in (2, 11, 35, 40)
    ]
    (case / "others.json").write_text(json.dumps(results))
    flags = ("--results", str(case / "others.json"), "--json", str(case / "new" / "metrics.json"))
    eval_script.main(["--data", str(case), *flags])
    assert json.loads((case / "new" / "metrics.json").read_text())["ap"] == pytest.approx(1.0)


def test_darknets_protocol(case, capsys):
    """As `detector map`: boxes may reach beyond the image, any number of them counts, and its lines are printed."""
    out = case / "darknet"
    flags = ("--protocol", "darknet", "--points", "11", "--json", str(out / "a.json"), "--save-voc", str(out / "voc"))
    flags += ("--save-results", str(out / "r.json"), "--device", "cpu", "--workers", "0")
    eval_script.main(["--data", str(case), *network_flags(case), *flags])
    printed = capsys.readouterr().out
    assert "used 11 Recall-points" in printed and "mean average precision (mAP@0.50) = " in printed
    numbers = json.loads((out / "a.json").read_text())
    assert numbers["score_threshold"] == 0.005 and numbers["max_detections"] is None and numbers["truths"] == 4
    results = json.loads((out / "r.json").read_text())
    assert min(left for left, *_ in (result["bbox"] for result in results)) < 0
    lines = [line for path in sorted((out / "voc").iterdir()) for line in path.read_text().splitlines()]
    assert [path.name for path in sorted((out / "voc").iterdir())] == [
        "comp4_det_test_disc.txt",
        "comp4_det_test_square.txt",
    ]
    assert len(lines) == len(results) == numbers["detections"]

    flags = ("--results", str(out / "r.json"), "--protocol", "darknet", "--json", str(out / "again.json"))
    eval_script.main(["--data", str(case), *flags])
    again = json.loads((out / "again.json").read_text())
    assert again["map"] == pytest.approx(numbers["map"], abs=0.1)  # of 0 points here, of 11 there
    assert again["truths"] == 4 and again["detections"] == numbers["detections"]


def test_darknets_recall(case, capsys):
    flags = ("--protocol", "recall", "--device", "cpu", "--workers", "0", "--json", str(case / "recall.json"))
    eval_script.main(["--data", str(case), *network_flags(case), *flags])
    assert capsys.readouterr().out.startswith("    4 ")
    numbers = json.loads((case / "recall.json").read_text())
    assert numbers["total"] == 4 and numbers["proposals_per_image"] >= 1 and numbers["nms_threshold"] == 0.4


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ((), 2, "--weights missing"),
        (("--weights", "tiny.weights"), 2, "does not say which network it is of; give its --cfg"),
        (("--cfg", "tiny.cfg"), 2, "--weights missing"),
        (("--cfg", "tiny.cfg", "--results", "r.json"), 2, "--cfg with --results"),
        (("--cfg", "tiny.cfg", "--weights", "tiny.weights", "--batch", "0"), 2, "not a whole number"),
        (("--cfg", "tiny.cfg", "--weights", "absent.weights"), 3, "absent.weights"),
        (("--cfg", "tiny.cfg", "--weights", "tiny.weights", "--names", "one.names"), 3, "one.names"),
        (("--results", "absent.json"), 3, "absent.json"),
        (("--results", "r.json", "--protocol", "recall"), 2, "--protocol recall needs a network, not --results"),
        (("--weights", "a.pt", "--points", "11"), 2, "--points is not for --protocol coco (only darknet)"),
        (
            ("--weights", "a.pt", "--protocol", "recall", "--save-voc", "x"),
            2,
            "--save-voc is not for --protocol recall",
        ),
        (("--cfg", "tiny.cfg", "--weights", "tiny.weights", "--precision", "fp16"), 2, "half precision needs a GPU"),
    ],
)
def test_faults_are_the_users(case, monkeypatch, flags, code, message):
    (case / "one.names").write_text("disc\n")
    monkeypatch.chdir(case)
    with pytest.raises((UserError, OSError)) as fault:
        eval_script.main(["--data", str(case), "--device", "cpu", "--workers", "0", *flags])
    line, exit_code = cli.describe(fault.value)
    assert exit_code == code
    assert message in line


def test_a_fault_ends_the_script_with_one_line(case):
    done = run_eval(case, "--cfg", "tiny.cfg", "--weights", "absent.weights")
    assert done.returncode == 3
    assert done.stderr.startswith("yolov4: error: absent.weights") and done.stderr.count("\n") == 1
