"""export.py as a program, and what its command line refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from export.commands import main
from models.darknet import Darknet
from models.weights import save_darknet_weights
from tests.painted import CFG
from tests.ranks import ROOT
from utils import cli
from utils.cfg import parse_cfg
from utils.errors import UsageError


def test_the_program_beside_the_folder_of_its_name(tmp_path: Path) -> None:
    """export.py and export/ share a name; started from elsewhere, the program finds the folder."""
    (tmp_path / "a.cfg").write_text(CFG)
    save_darknet_weights(Darknet(parse_cfg(CFG)), tmp_path / "a.weights")
    flags = ["--cfg", "a.cfg", "--weights", "a.weights", "--layers", "1", "--out", "a.conv.1"]
    command = [sys.executable, str(ROOT / "export.py"), "partial", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "a.conv.1\n" and done.stderr == ""
    first = (tmp_path / "a.conv.1").read_bytes()[20:]  # what follows the header
    assert first and (tmp_path / "a.weights").read_bytes()[20:].startswith(first)


def test_nothing_to_write() -> None:
    with pytest.raises(UsageError, match="nothing to write; give --weights-out FILE"):
        main(["--weights", "a.pt"])


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ([], 2, "export.py: the following arguments are required: --weights"),
        (["--weights", "none.weights", "--weights-out", "b.weights"], 2, "does not say which network it is of"),
        (["--weights", "none.pt", "--weights-out", "b.weights"], 3, "none.pt: no such checkpoint"),
        (["partial", "--weights", "a.pt", "--out", "b", "--layers", "x"], 2, "'x' is not a whole number"),
    ],
)
def test_faults_are_one_line(flags: list[str], code: int, message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.run(main, flags)
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("yolov4: error: ") and message in line
    assert not list(tmp_path.iterdir())
