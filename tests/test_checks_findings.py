"""training.checks.findings: serious ones first, each with what mends it below, in lines that fit a terminal."""

from __future__ import annotations

from training.checks.findings import Finding, finding_of, report
from utils.errors import DatasetError


def test_serious_findings_come_first_and_each_has_its_fix_below() -> None:
    found = [Finding("warning", "a", "mend a"), Finding("serious", "b", "mend b"), Finding("warning", "c", "mend c")]
    lines = ["serious: b", "  -> mend b", "warning: a", "  -> mend a", "warning: c", "  -> mend c"]
    assert list(report(found)) == lines


def test_prose_is_wrapped_and_file_names_are_not_cut() -> None:
    name = "folder/" + 130 * "x" + "-y.jpg"
    lines = list(report([Finding("warning", f"{20 * 'words '}{name}", 30 * "mend ")]))
    assert f"  {name}" in lines
    assert max(len(line) for line in lines if name not in line) <= 112
    assert [line[:5] for line in lines] == ["warni", "  wor", "  fol", "  -> ", "     "]


def test_an_error_becomes_a_serious_finding_with_its_own_words() -> None:
    found = finding_of(DatasetError("my.yaml: train=3 (wanted a folder); give one"))
    assert found.serious and found.what == "my.yaml: train=3 (wanted a folder); give one"
    assert found.fix == "mend this and check again: nothing else could be looked at"
