"""The shape of the repository, read from its source: who imports whom, and which names are not allowed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "data", "utils")
ALLOWED = {"utils": {"utils"}, "data": {"data", "utils"}, "models": {"models", "utils"}}
VAGUE_NAMES = {"misc", "general", "helpers", "helper", "common", "tools", "util"}


def source_files(root: Path) -> list[Path]:
    """Our Python files: the scripts at the top, the packages, the tests and the benchmarks."""
    folders = [root / name for name in (*PACKAGES, "tests", "benchmarks")]
    return [*sorted(root.glob("*.py")), *(path for folder in folders for path in sorted(folder.rglob("*.py")))]


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[int, str, list[str]]]:
    """(line, module, names) of each import; relative ones are resolved against ``package``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield node.lineno, module, [alias.name for alias in node.names]


def breaches(root: Path) -> list[str]:
    """Each breach as ``file:line: what``."""
    found = []
    scripts = {path.stem for path in root.glob("*.py")}
    for path in source_files(root):
        place = path.relative_to(root)
        if path.stem in VAGUE_NAMES:
            found.append(f"{place}:1: a file named {path.stem}")
        layer = place.parts[0]
        for line, module, names in imports(ast.parse(path.read_text(encoding="utf-8")), place.parts[:-1]):
            if "*" in names:
                found.append(f"{place}:{line}: star import of {module}")
            top = module.split(".")[0]
            if layer in ALLOWED and top in {*PACKAGES, *scripts, "tests", "benchmarks"} - ALLOWED[layer]:
                found.append(f"{place}:{line}: {layer} imports {module}")
    return found


def test_the_repository_keeps_its_layers() -> None:
    assert breaches(ROOT) == []


def test_the_packages_are_regular_ones() -> None:
    # Without __init__.py an installed package called "data" would win over the folder.
    assert [name for name in PACKAGES if not (ROOT / name / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    ("file", "text", "wanted"),
    [
        ("utils/a.py", "import models.darknet", "utils/a.py:1: utils imports models.darknet"),
        ("utils/a.py", "def f():\n    from data import coco", "utils/a.py:2: utils imports data"),
        ("utils/a.py", "import train", "utils/a.py:1: utils imports train"),
        ("data/a.py", "from models.yolo_head import YoloHead", "data/a.py:1: data imports models.yolo_head"),
        ("models/losses/a.py", "from ...data import coco", "models/losses/a.py:1: models imports data"),
        ("models/a.py", "from tests import conftest", "models/a.py:1: models imports tests"),
        ("eval.py", "from utils.boxes import *", "eval.py:1: star import of utils.boxes"),
        ("utils/helpers.py", "", "utils/helpers.py:1: a file named helpers"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, text: str, wanted: str) -> None:
    (tmp_path / "train.py").touch()
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert breaches(tmp_path) == [wanted]


def test_what_is_allowed_is_not_a_breach(tmp_path: Path) -> None:
    for file, text in {
        "utils/a.py": "import torch\nfrom utils import boxes\nfrom . import nms",
        "data/b.py": "from utils.boxes import area\nfrom data import coco",
        "models/c.py": "from .layers import Conv\nfrom utils import cfg",
        "eval.py": "from data import coco\nfrom models import load_network\nimport utils.boxes",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    assert breaches(tmp_path) == []
