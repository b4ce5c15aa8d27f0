"""train.py --check from end to end on painted images: what it says, what it returns, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import train
from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import write_painted
from training.checks import run as checks
from training.flags import parse_train_flags
from utils.cfg import load_cfg
from utils.distributed import World
from utils.errors import UsageError
from utils.image import write_image

pytestmark = pytest.mark.usefixtures("one_thread_and_torch_as_it_was")

IMAGES = 40  # some 35 boxes of each class

Check = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def _clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    data, other = write_painted(folder / "data", IMAGES, seed=0), write_painted(folder / "other", IMAGES, seed=1)
    shutil.rmtree(data / "val")
    shutil.copytree(other / "val", data / "val")
    shutil.copy(other / "instances_val.json", data)
    return data


@pytest.fixture
def data(_clean: Path, tmp_path: Path) -> Path:
    """Painted images, others for validation than for training, of the test alone."""
    return Path(shutil.copytree(_clean, tmp_path / "data"))


@pytest.fixture
def check(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the check on `data`; returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str, seconds: str = "0") -> tuple[int, str]:
        code = 0
        try:
            train.main(
                ["--cfg", f"{data}/painted.cfg", "--data", "data", "--device", "cpu", "--check", seconds, *flags]
            )
        except SystemExit as ended:
            code = int(ended.code)
        return code, " ".join(capsys.readouterr().out.split())

    return run


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_clean_data_gives_no_finding_and_nothing_is_written(check: Check, tmp_path: Path) -> None:
    code, said = check()
    assert code == 0 and said.endswith("FINDINGS: serious 0, warnings 0")
    titles = ("CLASSES of data/instances_train.json", "IMAGES", "BOXES AND ANCHORS", "WEIGHTS none given", "SCHEDULE")
    assert [said.index(title) for title in titles] == sorted(said.index(title) for title in titles)
    assert "train: 40 images, 0 of them cannot be used" in said and "OVERFITTING" not in said
    assert not (tmp_path / "runs").exists()


def test_overfitting(check: Check) -> None:
    code, said = check("--freeze", "1", seconds="2")
    assert code == 0 and "OVERFITTING 8 images at 64x64 loss " in said and "serious 0" in said


def test_pictures_go_where_out_says(check: Check, data: Path) -> None:
    (data / "train" / "00.png").write_bytes(b"text")
    code, said = check("--out", "looked")
    assert code == 3 and "looked/anchors.png" in said and "looked/bad_files.csv" in said
    assert cv2.imread("looked/anchors.png").shape[1] > 1000
    assert "00.png" in Path("looked/bad_files.csv").read_text()


def test_serious_findings_come_first_and_change_the_exit_code(check: Check, data: Path) -> None:
    for number in (3, 4):
        shutil.copy(data / "train" / f"{number:02}.png", data / "val" / f"{number:02}.png")
    shutil.copy(data / "train" / "05.png", data / "train" / "06.png")
    code, said = check("--set", "learning_rate=.3", "--iterations", "150")
    assert code == 3 and "FINDINGS: serious 2, warnings 2 serious: 2 of 40 validation images are training" in said
    order = ["val/03.png = train/03.png", "serious: the learning rate rises to 0.", "-> --set learning_rate=0.01"]
    order += ["warning: copies of other training images: 1, train/05.png = train/06.png", "warning: 150 iterations"]
    assert [said.index(text) for text in order] == sorted(said.index(text) for text in order)


def test_classes_and_names(check: Check, data: Path) -> None:
    def only_red(content: dict[str, Any]) -> None:
        content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 1]

    edit(data / "instances_train.json", only_red)
    code, said = check()
    assert code == 3 and "serious: classes with validation boxes only: 'blue'" in said
    for split in ("train", "val"):
        edit(data / f"instances_{split}.json", lambda content: content["categories"][1].update(name="Red"))
    assert "warning: data/instances_train.json: names that come more than once: 'red' = 'Red'" in check()[1]


def test_rare_classes_and_the_flag_for_them(check: Check, data: Path) -> None:
    def few_blue(content: dict[str, Any]) -> None:
        blue = [row for row in content["annotations"] if row["category_id"] == 2]
        content["annotations"] = [row for row in content["annotations"] if row not in blue[5:]]

    edit(data / "instances_train.json", few_blue)
    code, said = check()
    assert code == 0 and "classes with few training boxes: 'blue' 5" in said and "--class-weights auto" in said
    assert "--class-weights auto" not in check("--class-weights", "auto")[1]


def test_anchors_and_the_command_that_fits_them(check: Check, data: Path) -> None:
    code, said = check("--set", "yolo.anchors=60,9,9,60", "--size", "96")
    assert code == 0 and "warning: the anchors of" in said and "anchors fitted to your boxes 100%" in said
    cfg = data / "painted.cfg"
    command = f"python export.py anchors --data data --cfg {cfg} --size 96x96 --out fitted.cfg, then --cfg fitted.cfg"
    assert command in said


def test_boxes_that_mean_something_else_hide_the_anchors(check: Check, data: Path) -> None:
    def corners(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            x, y, w, h = row["bbox"]
            row["bbox"] = [x, y, x + w, y + h]

    edit(data / "instances_train.json", corners)
    code, said = check("--set", "yolo.anchors=60,9,9,60")
    assert code == 3 and "the last two numbers look like the right and bottom edge" in said
    assert "the anchors of" not in said


def test_weights(check: Check, data: Path) -> None:
    network = Darknet(load_cfg(data / "painted.cfg"))
    save_darknet_weights(network, "mine.weights")
    code, said = check("--weights", "mine.weights")
    assert code == 0 and "WEIGHTS mine.weights: 6 of 6 layers with weights and 100% of" in said and "warnings 0" in said
    Path("text.weights").write_text(9 * "<html></html>")
    code, said = check("--weights", "text.weights", seconds="1")
    assert code == 3 and "-> download or copy the file again" in said and "OVERFITTING" in said  # without them
    code, said = check("--weights", "gone.weights")
    assert (
        code == 3
        and "gone.weights: cannot be read: No such file or directory" in said
        and "-> check the path of --weights" in said
    )


def test_label_texts_that_cannot_be_read(check: Check, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "texts" / split).mkdir(parents=True)
        write_image(tmp_path / "texts" / split / "a.png", np.zeros((64, 64, 3), np.uint8))
        (tmp_path / "texts" / split / "a.txt").write_text("0 .5 .5 .4 .4\n0 120 40 30 20\n7 .5 .5 .1 .1\n")
    (tmp_path / "texts" / "my.yaml").write_text("path: .\ntrain: train\nval: val\nnames: [red, blue]\n")
    code, said = check("--data", "texts/my.yaml")
    assert code == 3 and said.startswith("FINDINGS: serious 4, warnings 0 serious: train labels, bad lines: 1;")
    assert "lines with a class out of 0..1: 1; the first: texts/val/a.txt:3" in said


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: (data / "instances_val.json").unlink(), "no instances_val.json in it"),
        (lambda data: (data / "instances_train.json").write_text("{"), "instances_train.json:"),
        (lambda data: [file.write_bytes(b"") for file in (data / "val").iterdir()], "40 of 40 images cannot be used"),
    ],
)
def test_data_that_cannot_be_read_is_a_finding(
    check: Check, data: Path, damage: Callable[[Path], object], what: str
) -> None:
    damage(data)
    code, said = check()
    assert code == 3 and "FINDINGS: serious 1, warnings 0" in said and what in said
    assert said.endswith("-> mend this and check again: nothing else could be looked at")


def test_a_classifier_is_checked_without_learning(check: Check, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 2, 25):
        folder = tmp_path / "photos" / ("train", "val")[split] / ("red", "blue")[label]
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{number}.png", rng.integers(0, 255, (16, 16, 3)).astype(np.uint8))
    code, said = check("--cfg", "cifar.cfg", "--data", "photos", seconds="1")
    assert code == 0 and said.startswith("CLASSES of photos/train class images train val")
    assert "OVERFITTING" not in said and said.endswith("serious 0, warnings 0")
    with pytest.raises(UsageError, match=r"--data is needed: a folder with train/CLASS/"):
        train.main(["--cfg", "cifar.cfg", "--check", "0"])


@pytest.mark.parametrize("other", [["--tune", "3"], ["--resume", "runs/train/x"]])
def test_a_check_is_no_search_and_no_run_to_go_on_with(other: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--check looks at what a new run would train; give it without --resume and"):
        train.main(["--cfg", "yolov4-tiny-mish.cfg", "--check", *other])


def test_one_process_checks() -> None:
    args = parse_train_flags(["--cfg", "yolov4-tiny-mish.cfg", "--device", "cpu", "--check"])
    assert args.check == 20
    with pytest.raises(UsageError, match=r"a check in one process, not in 2; start it without torchrun"):
        checks.check(args, World(rank=0, size=2))


@pytest.fixture
def before_training(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Start a training with more flags, end it before its first step; what was printed."""

    class Ended(Exception):
        pass

    def end(*_: object) -> None:
        raise Ended

    monkeypatch.setattr("training.run.new_run_folder", end)  # what comes after the remark

    def run(*flags: str) -> str:
        with pytest.raises(Ended):
            train.main(["--cfg", f"{data}/painted.cfg", "--data", str(data), "--device", "cpu", *flags])
        return " ".join(capsys.readouterr().out.split())

    return run


def test_a_training_begins_with_a_remark_on_what_costs_no_time(before_training: Check, data: Path) -> None:
    edit(data / "instances_val.json", lambda content: content["annotations"].clear())
    said = before_training("--iterations", "150", "--set", "learning_rate=9")
    order = [
        "serious: the learning rate rises to",
        "warning: classes with training boxes only, not measured: 'red', 'b",
    ]
    order += ["warning: 150 iterations are too few to learn from -> --iterations 1000"]
    order += ["images have no box", "the same command with --check looks closer"]
    assert [text for text in order if text not in said] == []


def test_a_training_remarks_on_anchors(before_training: Check) -> None:
    said = before_training("--set", "yolo.anchors=60,9,9,60")
    assert "warning: the anchors of" in said and "python export.py anchors --data" in said


def test_nothing_is_remarked_where_nothing_is_wrong(before_training: Check) -> None:
    said = before_training()
    assert "--check" not in said and "iterations of 8 images" in said


def test_without_a_scan_nothing_is_remarked(before_training: Check) -> None:
    assert "--check" not in before_training("--no-scan", "--iterations", "1")  # nobody looked at the boxes
