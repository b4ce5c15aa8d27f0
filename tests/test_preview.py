"""What is refused before torch is imported: the same as later, in the same words; and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import detect
import eval as eval_script
import train
from evaluation.flags import preview_evaluation
from export.commands import main as export_main
from export.flags import preview_export
from inference.flags import preview_detection
from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import CFG, write_painted
from tests.ranks import ROOT
from training.preview import preview_training
from utils import cli
from utils.cfg import parse_cfg, with_classes
from utils.checkpoint import save_checkpoint
from utils.errors import WeightsError

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
CONV = "[convolutional]\nfilters=65536\n"
SCRIPTS = {
    "train": (train.main, preview_training),
    "eval": (eval_script.main, preview_evaluation),
    "detect": (detect.main, preview_detection),
    "export": (export_main, preview_export),
}
_PROBE = """
import contextlib, io, json, runpy, sys
found = []
for argv in json.loads(sys.argv[1]):
    sys.argv[:] = argv
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
    found.append((code, errors.getvalue(), "torch" in sys.modules))
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(json.dumps((found, peak)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, painted.cfg and its weights, and what is wrong with others."""
    folder = write_painted(tmp_path_factory.mktemp("preview") / "data")
    torch.manual_seed(0)
    network = Darknet(parse_cfg(CFG))
    save_darknet_weights(network, folder / "painted.weights")
    save_checkpoint(folder / "painted.pt", {"model": network.state_dict(), "cfg": CFG, "names": ["red", "blue"]})
    whole = (folder / "painted.weights").read_bytes()
    (folder / "cut.weights").write_bytes(whole[:-3])
    (folder / "short.weights").write_bytes(whole[:-4])
    (folder / "long.weights").write_bytes(whole + whole)
    (folder / "text.weights").write_text("text, no weights")
    (folder / "cut.pt").write_bytes((folder / "painted.pt").read_bytes()[:-100])
    (folder / "broken.cfg").write_text(CFG.replace("burn_in", "brun_in"))
    (folder / "huge.cfg").write_text(CFG.replace("filters=24", "filters=1000000000"))
    (folder / "big.cfg").write_text(f"{NET}{CONV}{CONV}[convolutional]\nfilters=255\n[yolo]\n")
    (folder / "itself.cfg").write_text(CFG.replace("[dropout]\nprobability=.02", "[route]\nlayers=3"))
    (folder / "forward.cfg").write_text(CFG.replace("[dropout]\nprobability=.02", "[shortcut]\nfrom=5"))
    (folder / "blank.names").write_text("red\n\nblue\n")
    return folder


def flags(folder: Path, script: str, cfg: str = "painted.cfg", weights: str = "painted.weights") -> list[str]:
    """A command line of ``script``."""
    more = {
        "train": ["--data", str(folder), "--out", str(folder / "run"), "--iterations", "1"],
        "eval": ["--data", str(folder)],
        "detect": ["--source", str(folder / "val"), "--no-save"],
        "export": ["--weights-out", str(folder / "out.weights")],
    }[script]
    machine = [] if script == "export" else ["--device", "cpu", "--workers", "0"]
    return ["--cfg", str(folder / cfg), "--weights", str(folder / weights), *more, *machine]


CASES = [
    (("broken.cfg",), 3, "broken.cfg:11: [net] has no key 'brun_in'"),
    (("huge.cfg",), 3, "filters=1000000000 (wanted a whole number from 1 to 65536)"),
    (("big.cfg",), 3, "big.cfg:7: [convolutional] brings the network to 4,295,294,976 parameters"),
    (("itself.cfg",), 3, "[route] layers=3 (wanted 0 to 2 or -1 to -3, as this is layer 3)"),
    (("forward.cfg",), 3, "[shortcut] from=5 (wanted 0 to 2"),
    (("absent.cfg",), 3, "absent.cfg: no such cfg file or name"),
    (("painted.cfg", "cut.weights"), 3, "bytes are no whole number of float32 values"),
    (("painted.cfg", "short.weights"), 3, "it ends in layer 6 convolutional weights; is this the right pair?"),
    (("painted.cfg", "long.weights"), 3, "painted.cfg needs"),
    (("painted.cfg", "text.weights"), 3, "text.weights: header says version"),
    (("painted.cfg", "absent.weights"), 3, "absent.weights: "),
    (("painted.cfg", "absent.pt"), 3, "absent.pt: "),
    (("painted.cfg", "cut.pt"), 3, "cut.pt: not a checkpoint, or cut short"),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_program_refuses_without_torch_and_in_little_memory(folder: Path, script: str) -> None:
    lines = [[f"{script}.py", *flags(folder, script, *files)] for files, _, _ in CASES]
    lines += [[f"{script}.py", "--frobnicate"], [f"{script}.py", "--help"]]
    wanted = [*CASES, ((), 2, f"{script}.py --help"), ((), 0, "")]
    if script == "export":
        lines += [["export.py", "anchors", "--data", ".", "--cfg", str(folder / "big.cfg")], ["export.py", "partial"]]
        wanted += [((), 3, "big.cfg:7: "), ((), 2, "export.py partial --help")]
    else:
        lines.append([f"{script}.py", *flags(folder, script), "--names", str(folder / "blank.names")])
        wanted.append(((), 3, "blank.names:2: blank line between names"))
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(lines)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found, kilobytes = json.loads(done.stdout)
    for argv, (code, errors, torch_is_there), (_, wanted_code, part) in zip(lines, found, wanted, strict=True):
        assert code == wanted_code, (argv, errors)
        assert not torch_is_there, argv
        if code:
            assert errors.startswith("yolov4: error: ") and errors.count("\n") == 1 and part in errors, errors
    assert kilobytes < 500_000


def last_words(main: Callable[[list[str]], None], argv: list[str], capsys: pytest.CaptureFixture[str]) -> object:
    """The exit code and the error line of ``main``."""
    with pytest.raises(SystemExit) as ended:
        cli.run(main, argv)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_script_itself_says_the_same(folder: Path, script: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, preview = SCRIPTS[script]
    for files, code, part in CASES:
        argv = flags(folder, script, *files)
        early, late = last_words(preview, argv, capsys), last_words(main, argv, capsys)
        assert early == late
        assert early[0] == code and part in early[1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_fits_goes_on(folder: Path, script: str) -> None:
    _, preview = SCRIPTS[script]
    for weights in ("painted.weights", "painted.pt"):
        preview(flags(folder, script, weights=weights))
    cfg, *rest = flags(folder, script, weights="painted.pt")[1:]
    if script != "train":  # the cfg is in the checkpoint
        preview(rest)
    assert cfg.endswith("painted.cfg")


def test_training_takes_what_can_be_made_to_fit(folder: Path) -> None:
    """Filters that do not fit the head, the first layers of a file, and heads for other classes."""
    (folder / "filters.cfg").write_text(CFG.replace("filters=14", "filters=255"))
    preview_training(flags(folder, "train", "filters.cfg", "painted.pt"))
    own = parse_cfg(CFG)
    for classes in (1, 2, 5):
        network = Darknet(with_classes(own, classes))
        for layers in (1, 3, 6, 8):
            save_darknet_weights(network, folder / "part.weights", stop_before=layers)
            preview_training(flags(folder, "train", weights="part.weights"))
    whole = (folder / "part.weights").read_bytes()
    for floats in (1, 100, 5000):
        (folder / "part.weights").write_bytes(whole[: 20 + 4 * floats])
        with pytest.raises(WeightsError, match=r"holds .* floats, .*painted\.cfg needs .*; it ends in layer"):
            preview_training(flags(folder, "train", weights="part.weights"))


def test_a_check_reports_weights_that_do_not_fit(folder: Path) -> None:
    preview_training([*flags(folder, "train", weights="short.weights"), "--check", "0"])


def test_results_are_measured_without_a_network(folder: Path) -> None:
    preview_evaluation(["--data", str(folder), "--results", "absent.json"])


def test_a_run_to_go_on_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"last\.pt: no such checkpoint"):
        preview_training(["--resume", str(tmp_path)])
    (tmp_path / "last.pt").write_bytes((folder / "painted.pt").read_bytes())
    preview_training(["--resume", str(tmp_path)])
