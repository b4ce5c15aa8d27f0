"""README.md and docs/: what a reader types is understood, and what the text names is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from evaluation.flags import parse_eval_flags
from export.flags import parse_export_flags
from inference.flags import parse_detect_flags
from models.graph import plan
from training.flags import parse_train_flags
from utils.cfg import load_cfg

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PARSERS: dict[str, Callable[[Sequence[str]], object]] = {
    "train.py": parse_train_flags,
    "eval.py": parse_eval_flags,
    "detect.py": parse_detect_flags,
    "export.py": parse_export_flags,
}
COMMAND = re.compile(r"(?:python|torchrun\b[^\n`]*?) +(train|eval|detect|export)\.py +(.*)")
BESIDE = re.compile(r" {3,}(?![-\\]).*| +#.*")  # the words beside a command in a block


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(script, flags) of every command in blocks and between backticks; those with ``...`` or N are only sketches."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in lines:
        if (found := COMMAND.match(line)) and not re.search(r"\.\.\.| N\b", line):
            yield f"{found[1]}.py", shlex.split(BESIDE.sub("", found[2]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_of_every_command_are_known(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for script, flags in commands(page):
        if "--resume" in flags:  # reads the flags of a run that is not here
            assert {flag for flag in flags if flag.startswith("--")} <= {"--resume", "--tune", "--epochs"}, flags
            continue
        PARSERS[script](flags)
        cfg = flags[flags.index("--cfg") + 1] if "--cfg" in flags else "yolov4.cfg"
        assert (ROOT / "cfg" / cfg).is_file() or "/" in cfg or cfg == "my.cfg", (page.name, cfg)


def test_the_start_page_has_a_command_for_every_script() -> None:
    assert {script for script, _ in commands(PAGES[0])} == set(PARSERS)
    assert len(list(commands(PAGES[0]))) > 25


def test_the_table_of_networks_holds_every_cfg_with_its_numbers() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    row = re.compile(r"^\| `(\S+)\.cfg`[^|]*\|[^|]*\| (\d+) \| ([\d.]+) M \| ([\d.]+) \|$", re.MULTILINE)
    rows = {name: numbers for name, *numbers in row.findall(text)}
    assert sorted(rows) == sorted(path.stem for path in (ROOT / "cfg").glob("*.cfg"))
    for name, (side, millions, billions) in rows.items():
        graph = plan(load_cfg(name))
        assert graph.nodes[0].inputs[1:] == (int(side), int(side))
        for written, value in ((millions, graph.parameters / 1e6), (billions, operations(graph) / 1e9)):
            digits = len(written.partition(".")[2])
            assert f"{value:.{digits}f}" == written, name


def operations(graph: object) -> int:
    return sum(node.operations for node in graph.nodes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(r"\b(?:docs|utils|models|data|benchmarks|cfg|tests)/[\w/]+\.(?:md|svg|py|cfg|names|data)\b", text)
    )
    named |= {
        f"{page.parent.name}/{path}" if page.parent != ROOT else path
        for path in re.findall(r"\]\((?!http)([^)#]+)\)", text)
    }
    written_on_a_gpu = {"benchmarks/results/ops_gpu.md"}
    assert [path for path in sorted(named - written_on_a_gpu) if not (ROOT / path).exists()] == []
