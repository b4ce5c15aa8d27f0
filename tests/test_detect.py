"""detect.py end to end, with a network whose detections are known beforehand."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import detect
from inference.live import LiveStream
from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.clips import numbered, write_clip
from utils import cli, video
from utils.cfg import parse_cfg
from utils.checkpoint import save_checkpoint
from utils.image import read_image, write_image

REPO = Path(__file__).resolve().parents[1]
CFG = """
[net]
width=64
height=64
channels=3

[convolutional]
filters=7
size=1
stride=16
activation=linear

[yolo]
mask=0
anchors=20,20
classes=2
num=1
"""
SCORE = float(torch.sigmoid(torch.tensor(3.0)) * torch.sigmoid(torch.tensor(2.0)))
PER_FRAME = 16  # one box in each cell of the 4 x 4 grid, 20 x 20 input pixels round its centre, all of class 0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.cfg, net.weights, net.pt and net.names."""
    folder = tmp_path_factory.mktemp("network")
    network = Darknet(parse_cfg(CFG))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.zero_()
            if parameter.ndim == 1:
                assert name.endswith("bias")
                parameter.copy_(torch.tensor([0.0, 0, 0, 0, 3, 2, -2]))
    (folder / "net.cfg").write_text(CFG)
    (folder / "net.names").write_text("cell\nblood clot\n")
    save_darknet_weights(network, folder / "net.weights")
    save_checkpoint(folder / "net.pt", {"model": network.state_dict(), "cfg": CFG, "names": ["egg", "hen"]})
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with three pictures in pics/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pics").mkdir()
    for name, size in (("a.png", (64, 64)), ("b.jpg", (32, 128)), ("c.png", (7, 5))):
        write_image(tmp_path / "pics" / name, np.full((*size, 3), 60, np.uint8))
    return tmp_path


Run = Callable[..., int]


@pytest.fixture
def run(files: Path, here: Path) -> Run:
    """Run detect.py with that network and more flags; returns the exit code."""

    def call(*flags: str | Path, network: tuple[str, ...] = ("--cfg", "net.cfg", "--weights", "net.weights")) -> int:
        network = tuple(str(files / word) if word.startswith("net.") else word for word in network)
        with pytest.raises(SystemExit) as ended:
            cli.run(detect.main, [*network, "--device", "cpu", *map(str, flags)])
        return ended.value.code

    return call


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_folder_of_pictures(run: Run, here: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--json", "r/a.json", "--csv", "r/a.csv", "--save-txt", "--save-crops", "--batch", "2"]
    assert run("--source", "pics", "--names", files / "net.names", *flags) == 0
    report = json.loads(Path("r/a.json").read_text())
    assert report["names"] == ["cell", "blood clot"]
    assert [Path(frame["source"]).name for frame in report["frames"]] == ["a.png", "b.jpg", "c.png"]
    assert [(frame["height"], frame["width"]) for frame in report["frames"]] == [(64, 64), (32, 128), (7, 5)]
    for frame in report["frames"]:
        assert len(frame["detections"]) == PER_FRAME
        x, y = frame["width"] / 64, frame["height"] / 64
        boxes = np.sort([found["box"] for found in frame["detections"]], axis=0)
        assert boxes[0] == pytest.approx([-2 * x, -2 * y, 18 * x, 18 * y], abs=1e-2)  # round (8, 8), not clipped
        assert {(found["label"], found["name"]) for found in frame["detections"]} == {(0, "cell")}
        assert frame["detections"][0]["score"] == pytest.approx(SCORE, abs=1e-5)
    out = here / "runs" / "detect" / "pics"
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.jpg", "c.png", "crops", "labels"]
    assert read_image(out / "a.png").max() > 200 and read_image(out / "b.jpg").shape == (32, 128, 3)
    assert len((out / "labels" / "b.txt").read_text().splitlines()) == PER_FRAME
    assert len(list((out / "crops" / "cell").iterdir())) > PER_FRAME
    assert len(Path("r/a.csv").read_text().splitlines()) == 1 + 3 * PER_FRAME
    printed = capsys.readouterr()
    assert "3 frames in" in printed.out and "48 detections: 48 cell" in printed.out
    assert f"written: {Path('runs/detect/pics')}" in printed.out and "Traceback" not in printed.err


@pytest.mark.parametrize("batch", ["1", "4"])
def test_a_video(run: Run, here: Path, batch: str) -> None:
    write_clip(here / "v.mkv", frames=21)
    assert run("--source", "v.mkv", "--out", "o", "--json", "v.json", "--batch", batch) == 0
    assert frames_of(here / "o" / "v.mp4") == 21
    frames = json.loads(Path("v.json").read_text())["frames"]
    assert [frame["frame"] for frame in frames] == list(range(21)) and {frame["source"] for frame in frames} == {
        "v.mkv"
    }


def test_pictures_and_videos_together(run: Run, here: Path) -> None:
    for name in ("x.mp4", "y.avi"):
        write_clip(here / "pics" / name, frames=5)
    assert run("--source", "pics", "--json", "a.json") == 0
    out = here / "runs" / "detect" / "pics"
    assert {path.name for path in out.iterdir()} == {"a.png", "b.jpg", "c.png", "x.mp4", "y.mp4"}
    assert len(json.loads(Path("a.json").read_text())["frames"]) == 3 + 5 + 5


def test_run_folders_are_numbered(run: Run, here: Path) -> None:
    for _ in range(2):
        assert run("--source", "pics/a.png") == 0
    assert sorted(path.name for path in (here / "runs" / "detect").iterdir()) == ["a", "a2"]


def test_no_save_writes_only_what_is_asked_for(run: Run, here: Path) -> None:
    assert run("--source", "pics/a.png", "--no-save", "--json", "a.json") == 0
    assert sorted(path.name for path in here.iterdir()) == ["a.json", "pics"]


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (["--classes", "0"], PER_FRAME),
        (["--classes", "cell", "1"], PER_FRAME),
        (["--classes", "blood clot"], 0),
        (["--max-detections", "3"], 3),
        (["--score-threshold", "0.9"], 0),
        (["--nms-threshold", "0.01", "--max-detections", "99"], 4),  # neighbours overlap by a tenth: every other stays
        (["--size", "32x64"], PER_FRAME // 2),
        (["--letterbox"], PER_FRAME),
    ],
)
def test_flags_that_choose(run: Run, files: Path, flags: list[str], count: int) -> None:
    assert run("--source", "pics/b.jpg", "--names", files / "net.names", "--json", "a.json", *flags) == 0
    assert len(json.loads(Path("a.json").read_text())["frames"][0]["detections"]) == count


def test_letterbox_and_stretch_differ(run: Run) -> None:
    boxes = []
    for flag in ("--letterbox", "--stretch"):
        assert run("--source", "pics/b.jpg", "--no-save", "--json", "a.json", flag) == 0
        found = json.loads(Path("a.json").read_text())["frames"][0]["detections"]
        boxes.append(found[0]["box"])
    # the picture is 128 x 32; letterboxed it is halved, so a box of 20 input pixels is 40 wide and high
    assert boxes[0][2] - boxes[0][0] == pytest.approx(40, abs=0.01)
    assert boxes[0][3] - boxes[0][1] == pytest.approx(40, abs=0.01)
    assert boxes[1][3] - boxes[1][1] == pytest.approx(10, abs=0.01)


def test_a_checkpoint_brings_its_cfg_and_names(run: Run, files: Path) -> None:
    assert run("--source", "pics/a.png", "--json", "a.json", network=("--weights", "net.pt")) == 0
    report = json.loads(Path("a.json").read_text())
    assert report["names"] == ["egg", "hen"] and len(report["frames"][0]["detections"]) == PER_FRAME
    flags = ("--source", "pics/a.png", "--json", "a.json", "--names", files / "net.names")
    assert run(*flags, network=("--cfg", "net.cfg", "--weights", "net.pt")) == 0
    assert json.loads(Path("a.json").read_text())["names"] == ["cell", "blood clot"]


@pytest.mark.parametrize(
    ("flags", "network", "code", "message"),
    [
        ([], ("--cfg", "net.cfg"), 2, "detect.py needs --weights"),
        ([], ("--weights", "net.weights"), 2, "does not say which network it is of; give its --cfg"),
        (["--classes", "clel"], None, 2, "--classes clel: no such class; did you mean 'cell'?"),
        (["--classes", "7"], None, 2, "--classes 7: no such class; wanted 0 to 1, or a name"),
        (["--source", "nowhere.jpg"], None, 3, "nowhere.jpg: no such file"),
        (["--names", "pics/a.png"], None, 3, "a.png: "),
        (["--out", "pics"], None, 2, "the result would overwrite its source"),
        (["--batch", "0"], None, 2, "--batch"),
    ],
)
def test_one_line_and_a_code(
    run: Run,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    network: tuple[str, ...] | None,
    code: int,
    message: str,
) -> None:
    network = network or ("--cfg", "net.cfg", "--weights", "net.weights")
    assert run("--source", "pics/a.png", "--names", files / "net.names", *flags, network=network) == code
    printed = capsys.readouterr().err
    assert printed.startswith("yolov4: ") and printed.count("\n") == 1 and message in printed  # no bar before it


def test_a_network_without_a_head_is_refused(run: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "backbone.cfg").write_text(CFG.split("[yolo]")[0])
    flags = ("--cfg", "backbone.cfg", "--weights", "net.weights")
    assert run("--source", "pics/a.png", network=flags) == 2
    assert "backbone.cfg: finds no boxes (wanted a [yolo] section, or for classes" in capsys.readouterr().err


def test_names_of_the_wrong_number(run: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "three.names").write_text("a\nb\nc\n")
    assert run("--source", "pics/a.png", "--names", "three.names") == 3
    assert "three.names: 3 names (wanted 2" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"this is a text\n" * 99], ids=["empty", "text"])
def test_no_video_leaves_nothing_behind(run: Run, here: Path, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "v.mp4").write_bytes(data)
    assert run("--source", "v.mp4", "--json", "v.json") == 3
    assert "v.mp4: cannot be opened as a video" in capsys.readouterr().err
    assert not Path("v.json").exists() and list(Path("runs/detect").iterdir()) == []


def test_what_cannot_be_read_does_not_stop_the_rest(run: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pics" / "0.jpg").write_bytes(b"broken")
    (here / "pics" / "0.mp4").write_bytes(b"broken")
    write_clip(here / "pics" / "v.mp4", frames=4)
    assert run("--source", "pics", "--json", "a.json") == 3
    assert len(json.loads(Path("a.json").read_text())["frames"]) == 3 + 4
    error = capsys.readouterr().err
    assert "0.jpg" in error and "(and 1 more)" in error


def test_a_video_cut_short_keeps_its_frames(run: Run, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_clip(here / "v.mp4", frames=80, movflags="faststart").read_bytes()
    (here / "v.mp4").write_bytes(data[: len(data) * 2 // 3])
    assert run("--source", "v.mp4", "--out", "o", "--json", "v.json") == 3
    count = len(json.loads(Path("v.json").read_text())["frames"])
    assert 5 < count < 80 and frames_of(here / "o" / "v.mp4") == count
    assert f"v.mp4: only {count} of 80 frames could be decoded" in capsys.readouterr().err


def test_a_full_disk_ends_the_run(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []

    def full(_writer: video.VideoWriter, _frame: object) -> None:
        written.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video.VideoWriter, "_mux", full)
    write_clip(here / "v.mp4", frames=30)
    assert run("--source", "v.mp4", "--out", "o") == 4
    assert "No space left on device" in capsys.readouterr().err and len(written) == 1


def test_a_stream_that_breaks_off_keeps_what_came(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = []

    def connect() -> Iterator[np.ndarray]:
        tries.append(1)
        if len(tries) == 1:
            for index in range(5):
                yield numbered(index)
                time.sleep(0.1)
        raise OSError("cable pulled")

    monkeypatch.setattr(detect, "open_sources", lambda *_, **__: [LiveStream("rtsp://door/1", connect, backoff=0.01)])
    assert run("--source", "rtsp://door/1", "--json", "a.json") == 4
    count = len(json.loads(Path("a.json").read_text())["frames"])
    assert 1 <= count <= 5 and frames_of(here / "runs/detect/rtsp___door_1/live.mp4") == count
    assert "rtsp://door/1: cable pulled (tried 4 times)" in capsys.readouterr().err


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_an_endless_stream(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    def connect() -> Iterator[np.ndarray]:
        for index in range(10**6):
            yield numbered(index)
            time.sleep(0.01)
            if index == 30:
                os.kill(os.getpid(), number)

    def sources(_source: str, stopping: Callable[[], bool]) -> list[LiveStream]:
        return [LiveStream("camera 0", connect, stopping=stopping)]

    monkeypatch.setattr(detect, "open_sources", sources)
    assert run("--source", "0", "--json", "a.json", "--out", "o") == code
    count = len(json.loads(Path("a.json").read_text())["frames"])
    assert 0 < count <= 40 and frames_of(here / "o" / "live.mp4") == count


def test_ctrl_c_closes_the_files_of_a_real_process(files: Path, here: Path) -> None:
    write_clip(here / "v.mp4", frames=4000)  # more than can be done before the signal
    command = [sys.executable, str(REPO / "detect.py"), "--cfg", files / "net.cfg", "--weights", files / "net.weights"]
    command += ["--source", "v.mp4", "--out", "o", "--json", "v.json", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=here) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline and not size_of(here / "o" / "v.part.mp4"):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error and "detections" in out
    frames = json.loads((here / "v.json").read_text())["frames"]
    assert [path.name for path in (here / "o").iterdir()] == ["v.mp4"]
    assert 0 < frames_of(here / "o" / "v.mp4") == len(frames) < 4000
