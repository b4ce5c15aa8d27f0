"""What users get wrong, and disks, files and devices with them: one line on stderr and the right exit code."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import detect
import eval as eval_script
import train
from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import CFG, NAMES, write_painted
from utils import cli
from utils.cfg import parse_cfg

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train": train.main, "eval": eval_script.main, "detect": detect.main}


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    handler, deterministic = signal.getsignal(signal.SIGTERM), torch.are_deterministic_algorithms_enabled()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    signal.signal(signal.SIGTERM, handler)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, painted.cfg and fitting weights; nothing/ is empty, broken.cfg is broken in its 11th line."""
    folder = write_painted(tmp_path_factory.mktemp("painted") / "data")
    torch.manual_seed(0)
    save_darknet_weights(Darknet(parse_cfg(CFG)), folder / "painted.weights")
    (folder / "short.weights").write_bytes((folder / "painted.weights").read_bytes()[:-400])
    (folder / "broken.cfg").write_text(CFG.replace("burn_in=20", "brun_in=20"))
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture
def script(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a script in the painted folder; the exit code, stderr and stdout."""
    monkeypatch.chdir(painted)
    usual = {
        "train": ["--data", ".", "--out", str(tmp_path / "run"), "--iterations", "2"],
        "eval": ["--data", ".", "--weights", "painted.weights"],
        "detect": ["--source", "val", "--weights", "painted.weights", "--out", str(tmp_path / "out")],
    }

    def run(name: str, *flags: str) -> tuple[int, str, str]:
        common = ["--cfg", "painted.cfg", "--device", "cpu", "--workers", "0", *usual[name]]
        with pytest.raises(SystemExit) as ended:
            cli.run(SCRIPTS[name], [*common, *flags])
        printed = capsys.readouterr()
        return ended.value.code, printed.err, printed.out

    return run


def assert_one_line(found: tuple[int, str, str], code: int, *parts: str) -> None:
    exit_code, line, _ = found
    assert exit_code == code, line
    assert line.startswith("yolov4: error: ") and line.count("\n") == 1 and line.endswith("\n")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    ("flags", "code", "parts"),
    [
        (("--cfg", "absent.cfg"), 3, ("absent.cfg",)),
        (("--cfg", "broken.cfg"), 3, ("broken.cfg:11:", "brun_in", "did you mean 'burn_in'")),
        (("--weights", "absent.weights"), 3, ("absent.weights", "No such file")),
        (("--weights", "absent.pt"), 3, ("absent.pt: ", "o such ")),
        (("--weights", "short.weights"), 3, ("short.weights", "is this the right pair?")),
        (("--weights", "painted.names"), 3, ("painted.names",)),
        (("--names", "absent.names"), 3, ("absent.names",)),
        (("--size", "big"), 2, ("'big' is not a size",)),
        (("--frobnicate",), 2, ("unrecognized arguments: --frobnicate", "--help")),
        (("--device", "tpu9"), 2, ("--device tpu9",)),
        (("--precision", "fp16"), 2, ("half precision needs a GPU",)),
    ],
)
def test_network_and_machine(script, name: str, flags: tuple[str, ...], code: int, parts: tuple[str, ...]) -> None:
    assert_one_line(script(name, *flags), code, *parts)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_gpu_that_is_not_there(script, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert_one_line(script(name, "--device", "cuda"), 4, "--device cuda: torch sees 0 GPUs here; use --device cpu")


@pytest.mark.parametrize("name", ["train", "eval"])
@pytest.mark.parametrize(
    ("data", "part"),
    [
        ("absent.yaml", "absent.yaml: no such file or folder"),
        ("nothing", "nothing: no instances_"),
        ("painted.names", "painted.names: unknown kind '.names'"),
        ("broken.json", "broken.json:2: not json"),
    ],
)
def test_data(script, painted: Path, name: str, data: str, part: str) -> None:
    (painted / "broken.json").write_text('{"images":\n!')
    assert_one_line(script(name, "--data", data), 3, part)


@pytest.mark.parametrize(
    ("source", "part"),
    [("absent.jpg", "absent.jpg"), ("nothing", "nothing"), ("*.tiff", "*.tiff"), ("99.mp4", "99.mp4")],
)
def test_sources(script, tmp_path: Path, source: str, part: str) -> None:
    assert_one_line(script("detect", "--source", source), 3, part)
    assert not (tmp_path / "out").exists()


def test_flags_that_contradict_each_other(script) -> None:
    assert_one_line(script("train", "--epochs", "3"), 2, "not allowed with argument")
    assert_one_line(script("train", "--set", "momentum"), 2, "--set momentum: wanted KEY=VALUE")
    assert_one_line(script("train", "--set", "momentun=.9"), 3, "no key 'momentun'; did you mean 'momentum'?")
    assert_one_line(script("train", "--set", "batch=many"), 3, "batch=many")
    assert_one_line(script("train", "--activation", "swishy"), 3, "swishy")
    assert_one_line(script("train", "--freeze", "99"), 2, "--freeze 99")
    assert_one_line(script("detect", "--classes", "dog"), 2, "--classes dog: no such class")


def test_a_run_that_is_not_there(script, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(train.main, ["--resume", str(tmp_path)])
    assert ended.value.code == 3


# --- images and labels -------------------------------------------------------------------------------------------


def test_a_label_with_an_unknown_class_is_named_with_its_line(script, painted: Path, tmp_path: Path) -> None:
    for number in range(3):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(painted / "train" / f"{number:02}.png", tmp_path / "images")
        (tmp_path / "labels" / f"{number:02}.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "labels" / "01.txt").write_text("1 .5 .5 .2 .2\n91 .5 .5 .2 .2\n")
    names = json.dumps(list(NAMES))
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames: {names}\n")
    for name in ("train", "eval"):
        assert_one_line(script(name, "--data", str(tmp_path / "data.yaml")), 3, "labels/01.txt:2: class=91: 0..1")


def test_an_unreadable_image_among_twelve_is_an_error(script, painted: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(painted, tmp_path / "data"))
    (data / "train" / "03.png").write_bytes((data / "train" / "03.png").read_bytes()[:600])
    code, line, _ = found = script("train", "--data", str(data))
    assert_one_line(found, 3, "1 of 12 images cannot be used (at most 1%)", "train/03.png")
    (data / "train" / "03.png").write_text("text, not an image")
    assert_one_line(script("train", "--data", str(data)), 3, "1 of 12 images cannot be used", "train/03.png")
    assert (code, line.count("Traceback")) == (3, 0)


def test_an_unreadable_image_among_many_is_left_out_and_listed(script, tmp_path: Path) -> None:
    data = write_painted(tmp_path / "data", images=101)
    (data / "train" / "07.png").write_bytes(b"")
    code, errors, printed = script("train", "--data", str(data))
    assert (code, errors) == (0, "")
    assert "1 images cannot be used and are left out:" in printed
    assert "train/07.png: " in printed
    assert ": 100 images, into" in printed


def test_a_missing_image(script, painted: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(painted, tmp_path / "data"))
    (data / "val" / "05.png").unlink()
    for name in ("train", "eval"):
        assert_one_line(script(name, "--data", str(data)), 3, "val/05.png")


def test_without_a_scan_a_broken_image_is_still_one_line(script, painted: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(painted, tmp_path / "data"))
    for path in (data / "train").iterdir():
        path.write_bytes(path.read_bytes()[:600])
    for workers in ("0", "1"):
        found = script("train", "--data", str(data), "--no-scan", "--workers", workers)
        assert_one_line(found, 3, "data/train/", ".png")


# --- disk and process --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files cannot grow beyond 100 kB; last.pt has some 300."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(
    script, tmp_path: Path, small_disk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("train")[0] == 0
    last = tmp_path / "run" / "last.pt"
    before = last.read_bytes()
    assert len(before) > 200_000
    small_disk()
    with pytest.raises(SystemExit) as ended:
        cli.run(train.main, ["--resume", str(tmp_path / "run"), "--iterations", "4", "--eval-interval", "0"])
    assert ended.value.code == 4
    *warnings, line = capsys.readouterr().err.splitlines()
    assert "cannot write: File too large" in line and line.endswith("untouched; free some space")
    assert all(warning.startswith("yolov4: warning: TensorBoard") for warning in warnings)
    assert last.read_bytes() == before
    assert not list(last.parent.glob("*.tmp"))


def test_the_script_itself_ends_with_one_line(painted: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "--cfg", "broken.cfg", "--data", "."]
    done = subprocess.run(
        command, cwd=painted, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert_one_line((done.returncode, done.stderr, done.stdout), 3, "broken.cfg:11:")
