"""docs/darknet.md: its tables hold every key there is and name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.darknet_table import BEGIN, DOC, END, HEADER, known_rows, main
from tests.golden_cases import OWN
from utils.cfg.layers import Section
from utils.cfg.net import Net
from utils.cfg.sections import SECTIONS

ROOT = DOC.parents[1]
TEXT = DOC.read_text()
EVERYWHERE = "all layers"
CFGS = 95  # in Darknet's folder


def key_rows() -> list[list[str]]:
    """[sections, keys, file, test, verdict] of the table of keys."""
    lines = TEXT.partition("<!-- keys -->\n")[2].partition("<!-- end of keys -->")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def documented() -> list[tuple[str, str]]:
    """(section, key) for every key of the table, as often as it stands there."""
    return [
        (section, key)
        for sections, keys, *_ in key_rows()
        for section in sections.split(", ")
        for key in re.findall(r"`(\w+)`", keys)
    ]


def declared() -> set[tuple[str, str]]:
    """(section, key) for every key a section may hold."""
    keys = {EVERYWHERE: set(Section.keys()), "net": set(Net.keys())}
    keys |= {kind: set(section.keys()) - keys[EVERYWHERE] for kind, section in SECTIONS.items()}
    return {(section, key) for section, names in keys.items() for key in names}


def test_every_key_stands_in_the_table_once() -> None:
    found = documented()
    assert sorted(declared() - set(found)) == [], "not documented"
    assert sorted(set(found) - declared()) == [], "no such key"
    assert sorted(one for one in set(found) if found.count(one) > 1) == [], "documented twice"


def test_files_and_tests_of_the_table_exist_and_know_the_section() -> None:
    for sections, _, file, test, verdict in key_rows():
        assert (ROOT / file).is_file() and (ROOT / test).is_file(), (sections, file, test)
        assert test.startswith("tests/test_") and verdict


def test_files_named_in_the_text_exist() -> None:
    named = set(re.findall(r"`([a-z]+/[\w/.]+\.(?:py|md))`", TEXT))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_every_cfg_of_darknets_folder_has_a_row_without_a_fault() -> None:
    rows = known_rows(TEXT)
    assert len(rows) == CFGS
    assert all(len(row) == len(HEADER) and "**no**" not in row for row in rows.values())


def test_the_script_measures_a_cfg_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    doc, zoo = tmp_path / "doc.md", tmp_path / "zoo"
    zoo.mkdir()
    (zoo / "small.cfg").write_text((OWN / "training" / "mse_v3.cfg").read_text())
    (zoo / "old.cfg").write_text("[net]\nwidth=8\nheight=8\nchannels=3\n[rnn]\n")
    row = ["other", "1", "2", "yes", "", "yes", "yes"]
    doc.write_text(f"before\n{BEGIN}| a |\n|---|\n| {' | '.join(row)} |\n{END}after\n")
    monkeypatch.setattr("benchmarks.darknet_table.DOC", doc)
    main(["--zoo", str(zoo), "--only", "small", "old"])
    text = doc.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    rows = known_rows(text)
    assert rows["other"] == row and list(rows) == ["old", "other", "small"]
    assert rows["small"] == ["small", "16", "13,024", "yes", "", "yes", "yes"]
    assert rows["old"][3].startswith("refused: line 5: [rnn] this kind of layer is not supported")
