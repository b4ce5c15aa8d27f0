"""The table of commands in docs/darknet.md: each of ours names a script and flags that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import detect
import eval as eval_script
import train
from export.commands import main as export_main

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train.py": train.main, "eval.py": eval_script.main, "detect.py": detect.main, "export.py": export_main}


def commands() -> list[str]:
    text = (ROOT / "docs" / "darknet.md").read_text(encoding="utf-8")
    section = text[text.index("## Darknet's commands and ours") :].split("\n## ")[0]
    return re.findall(r"`python ([^`]+ --[^`]+)`", section)


def test_the_table_is_there() -> None:
    assert len(commands()) >= 17


@pytest.mark.parametrize("command", commands())
def test_its_flags_exist(command: str, capsys) -> None:
    script, *arguments = shlex.split(command)
    name = arguments[:1] if script == "export.py" and not arguments[0].startswith("-") else []
    with pytest.raises(SystemExit):
        SCRIPTS[script]([*name, "--help"])
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    flags = {argument for argument in arguments if argument.startswith("--")}
    assert flags - known == set()
