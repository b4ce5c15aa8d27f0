"""The repository as its source shows it: which files there are, what each imports, how long its functions are."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOMS = ("utils", "models", "data", "evaluation", "inference", "export", "training")
BESIDE = ("tests", "benchmarks", "docs")  # folders of Python files that no room may import
SOURCES = frozenset((".py", ".cpp", ".cu", ".h", ".cuh", ".sh"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """One module of ours that a file imports.

    Attributes:
        line: of the statement.
        module: dotted; ``from utils.cfg import heads`` is of ``utils.cfg.heads`` where that is a file.
        file: the module's, or None where there is none.
        star: ``from module import *``.
        late: inside a function.
    """

    line: int
    module: str
    file: str | None
    star: bool
    late: bool

    @property
    def top(self) -> str:
        """The room it lies in, or the script's name."""
        return self.module.split(".")[0]

    @property
    def is_script(self) -> bool:
        """Whether it is one of the programs at the top, not a folder of the same name."""
        return self.file is not None and "/" not in self.file


@dataclass(frozen=True)
class File:
    """A Python file; ``name`` is its path below the root."""

    name: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The first folder of its path; for a program at the top ``"a script"``."""
        return self.name.split("/")[0] if "/" in self.name else "a script"

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions and methods, inner ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS))


class House:
    """The Python files below ``root``: programs at the top, rooms, and what stands beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = [root / name for name in (*ROOMS, *BESIDE)]
        paths = [*sorted(root.glob("*.py")), *(path for folder in folders for path in sorted(folder.rglob("*.py")))]
        texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
        self.files = {name: File(name, text, ast.parse(text)) for name, text in texts.items()}

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """What each file imports of ours."""
        ours = {*ROOMS, *BESIDE, *(path.stem for path in self.root.glob("*.py"))}
        return {
            name: list(dict.fromkeys(each for each in self._imports_of(file) if each.top in ours))
            for name, file in self.files.items()
        }

    def of(self, *rooms: str) -> Iterator[File]:
        """The files of ``rooms``."""
        return (file for file in self.files.values() if file.room in rooms)

    def file_of(self, module: str) -> str | None:
        """Where a module stands; a folder goes before a file of the same name, as for Python."""
        path = module.replace(".", "/")
        return next((name for name in (f"{path}/__init__.py", f"{path}.py") if name in self.files), None)

    def folders(self) -> Iterator[tuple[str, list[Path]]]:
        """Each folder of the rooms with the source files directly in it; benchmarks are programs, one a file."""
        for room in ROOMS:
            for folder in (self.root / room, *(self.root / room).rglob("*")):
                if folder.is_dir():
                    files = sorted(path for path in folder.iterdir() if path.suffix in SOURCES)
                    yield folder.relative_to(self.root).as_posix(), files

    def _imports_of(self, file: File) -> Iterator[Import]:
        late = {node for function in file.functions() for node in ast.walk(function)}
        for node in ast.walk(file.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(node.lineno, alias.name, self.file_of(alias.name), star=False, late=node in late)
            elif isinstance(node, ast.ImportFrom):
                base = _base(file.name, node)
                for alias in node.names:
                    inner = self.file_of(f"{base}.{alias.name}")
                    module = base if inner is None else f"{base}.{alias.name}"
                    place = inner or self.file_of(base)
                    yield Import(node.lineno, module, place, star=alias.name == "*", late=node in late)


def _base(name: str, node: ast.ImportFrom) -> str:
    """The module ``from ... import`` names, a relative one resolved against its file."""
    folder = name.split("/")[:-1]
    above = folder[: len(folder) - node.level + 1] if node.level else []
    return ".".join((*above, *([node.module] if node.module else [])))


def circles(arrows: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Groups of nodes each of which leads to all others of its group (Tarjan 1972).

    Args:
        arrows: from every node to those it leads to.
    """
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        path.append(node)
        for after in arrows[node]:
            if after not in order:
                visit(after)
            if after in path:
                lowest[node] = min(lowest[node], lowest[after])
        if lowest[node] == order[node]:
            start = path.index(node)
            group = path[start:]
            del path[start:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in arrows:
        if node not in order:
            visit(node)
    return found


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of what a function takes, without ``self`` and ``cls``."""
    taken = function.args
    every = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, taken.vararg, taken.kwarg]
    return [each.arg for each in every if each is not None and each.arg not in ("self", "cls")]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its signature and docstring included."""
    return (function.end_lineno or function.lineno) - function.lineno + 1
