"""docs/architecture.md: the files and names on the map are there, and every folder is on it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.house import House

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md")
MAP = PAGES[0].read_text(encoding="utf-8")


def paths(text: str) -> set[str]:
    """What stands between backticks or in a block and looks like a path of ours."""
    quoted = re.findall(r"`([^`\s]+)`", text)
    return {name for name in quoted if re.fullmatch(r"[\w./]+(?:/|\.py|\.md)", name)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    named = paths(page.read_text(encoding="utf-8")) - {"detection.py", "classification.py", "flags.py"}  # in every room
    assert len(named) > 2
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_name_is_in_its_file() -> None:
    named = re.findall(r"`([\w/]+\.py)` \((`\w+`(?:, `\w+`)*)\)", MAP)
    assert len(named) > 20
    missing = [(file, name) for file, names in named for name in names.strip("`").split("`, `") if not has(file, name)]
    assert missing == []


def has(file: str, name: str) -> bool:
    """Whether ``file`` defines ``name`` at its top."""
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(node, "name", None) == name or name in [getattr(target, "id", None) for target in targets]:
            return True
    return False


def test_every_folder_is_on_the_map() -> None:
    folders = {f"{name}/" for name, files in House(ROOT).folders() if files}
    assert sorted(folders - paths(MAP)) == []
