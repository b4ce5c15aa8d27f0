"""The shape of the repository: who may import whom, how large things get, which names are not allowed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import pytest

from tests.house import BESIDE, ROOMS, House, circles, length, parameters

ROOT = Path(__file__).resolve().parents[1]

# What a room may import besides itself. Neighbours do not know each other; training measures while it trains.
BELOW: dict[str, tuple[str, ...]] = {
    "utils": (),
    "models": ("utils",),
    "data": ("utils",),
    "evaluation": ("models", "data", "utils"),
    "inference": ("models", "data", "utils"),
    "export": ("models", "data", "utils"),
    "training": ("evaluation", "models", "data", "utils"),
    "a script": ROOMS,
}
# Floors inside a room: files and folders named here import those of lower floors only, none beside or above.
FLOORS = {
    "models": (
        ("ops", "shapes", "heads"),
        ("graph", "layers", "targets"),
        ("build", "postprocess", "weights_file"),
        ("darknet",),
        ("compiling", "losses", "weights"),
        ("loading",),
    ),
    "data": (("formats", "augment", "sample"), ("loading",), ("scan",), ("splits",)),
}
PARTS_OF_TRAIN = ("training/checks", "training/search")  # jobs of their own, which train.py alone starts
REMARKS = "training/checks/remarks.py"  # what every training begins with
NO_TORCH = "it brings torch, for which whoever looks at a cfg does not wait"
LATE = {  # own modules that are imported inside functions, by file, and why
    ("models/__init__.py", "models.loading"): NO_TORCH,
    ("models/__init__.py", "utils.checkpoint"): NO_TORCH,
    ("training/cfg.py", "training.pretrained"): NO_TORCH,
}
VAGUE_NAMES = frozenset(("misc", "general", "helpers", "helper", "common", "tools", "util"))
MOST_FILES, MOST_OF_A_PREFIX = 24, 2
MOST_LINES, LONGEST_FUNCTION, MOST_PARAMETERS = 350, 60, 8
MANY_PARAMETERS = {  # functions that may take more, and why
    ("models/ops/registration.py", "_convolved"): "torch calls it with the arguments of the operator's schema",
}

Rule = Callable[[House], Iterator[str]]


def floors(house: House) -> Iterator[str]:
    """Imports go down only, and no program is imported."""
    for file in house.of(*BELOW):
        for each in house.imports[file.name]:
            if each.is_script or each.top not in (file.room, *BELOW[file.room]):
                yield f"{file.name}:{each.line}: {file.room} imports {each.module}"


def inner_floors(house: House) -> Iterator[str]:
    """The same inside a room, for what `FLOORS` names."""
    for room, levels in FLOORS.items():
        floor = {name: level for level, names in enumerate(levels) for name in names}
        for file in house.of(room):
            own = _second(file.name.removesuffix(".py").split("/"))
            for each in house.imports[file.name]:
                other = _second(each.module.split("."))
                if each.top == room and own in floor and own != other and floor.get(other, -1) >= floor[own]:
                    yield f"{file.name}:{each.line}: {room}/{own} imports {room}/{other}"


def parts_of_train(house: House) -> Iterator[str]:
    """What `PARTS_OF_TRAIN` names is imported by train.py, and by itself."""
    for file in house.of(*BELOW):
        for each in house.imports[file.name]:
            part = next((part for part in PARTS_OF_TRAIN if each.file and each.file.startswith(f"{part}/")), None)
            outside = file.name != "train.py" and not file.name.startswith(f"{part}/")
            if part and outside and each.file != REMARKS:
                yield f"{file.name}:{each.line}: imports {each.module}, which is for train.py"


def no_circles(house: House) -> Iterator[str]:
    """No two files import each other, over however many others."""
    arrows = {
        file.name: {each.file for each in house.imports[file.name] if each.file and each.file != file.name}
        for file in house.files.values()
    }
    yield from (f"{', '.join(group)}: import each other" for group in circles(arrows))


def early_imports(house: House, allowed: Mapping[tuple[str, str], str] = LATE) -> Iterator[str]:
    """Own modules are imported at the top of a file, but for the ``allowed``, all of which are needed."""
    late = {
        (file.name, each.module): each.line
        for file in house.of(*BELOW)
        for each in house.imports[file.name]
        if each.late
    }
    for name, module in sorted(late.keys() - allowed.keys()):
        yield f"{name}:{late[name, module]}: {module} late"
    for name, module in sorted(allowed.keys() - late.keys()):
        yield f"{name}: no late {module}, take it off the list"


def programs(house: House) -> Iterator[str]:
    """Every file at the top is a program."""
    for file in house.of("a script"):
        end = ast.unparse(file.tree.body[-1]) if file.tree.body else ""
        if end != "if __name__ == '__main__':\n    cli.run(main)":
            yield f"{file.name}: does not end in cli.run(main)"


def packages(house: House) -> Iterator[str]:
    """Without ``__init__.py`` an installed package called ``data`` would win over the folder."""
    for folder, files in house.folders():
        python = [path.name for path in files if path.suffix == ".py"]
        if folder.split("/")[0] in ROOMS and python and "__init__.py" not in python:
            yield f"{folder}: no __init__.py"


def small_folders(house: House) -> Iterator[str]:
    """A folder can be taken in at a glance; what would be spelt as a prefix is a folder."""
    for folder, files in house.folders():
        if len(files) > MOST_FILES:
            yield f"{folder}: {len(files)} source files (at most {MOST_FILES})"
        prefixes = sorted(path.stem.split("_")[0] for path in files if path.suffix == ".py" and path.stem[0] != "_")
        for prefix, group in groupby(prefixes):
            if (number := len(list(group))) > MOST_OF_A_PREFIX:
                yield f"{folder}: {number} files begin with {prefix} (make it a folder)"


def clear_names(house: House) -> Iterator[str]:
    """No file whose name says nothing, and no names from nowhere."""
    for file in house.files.values():
        if (stem := Path(file.name).stem) in VAGUE_NAMES:
            yield f"{file.name}: a file named {stem}"
        stars = (each for each in house.imports[file.name] if each.star)
        yield from (f"{file.name}:{each.line}: star import of {each.module}" for each in stars)


def small_parts(house: House, many: Mapping[tuple[str, str], str] = MANY_PARAMETERS) -> Iterator[str]:
    """Files and functions that can be read in one go; ``many`` are the functions that may take more, and all do."""
    taking_many = set()
    for file in house.of(*BELOW, *(set(BESIDE) - {"tests"})):
        if (lines := file.text.count("\n")) > MOST_LINES:
            yield f"{file.name}: {lines} lines (at most {MOST_LINES})"
        for function in file.functions():
            if length(function) > LONGEST_FUNCTION:
                yield f"{file.name}: {function.name} has {length(function)} lines (at most {LONGEST_FUNCTION})"
            if (number := len(parameters(function))) > MOST_PARAMETERS:
                taking_many.add((file.name, function.name))
                if (file.name, function.name) not in many:
                    yield f"{file.name}: {function.name} takes {number} values (at most {MOST_PARAMETERS})"
    yield from (f"{name}: {function} takes few, take it off the list" for name, function in many.keys() - taking_many)


def _second(path: list[str]) -> str:
    """``losses`` of ``models/losses/simota``; nothing of ``models``."""
    return path[1] if len(path) > 1 else ""


RULES: tuple[Rule, ...] = (
    floors,
    inner_floors,
    parts_of_train,
    no_circles,
    early_imports,
    programs,
    packages,
    small_folders,
    clear_names,
    small_parts,
)


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(house: House, rule: Rule) -> None:
    assert list(rule(house)) == []


def test_every_room_is_there() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "__init__.py").is_file()] == []


LONG = "def f():\n" + "    x = 1\n" * 60
WIDE = "class A:\n    def f(self, a, b, c, /, d, e, f, *rest, g, h): ..."
PROGRAM = 'from utils import cli\nif __name__ == "__main__":\n    cli.run(main)\n'


@pytest.mark.parametrize(
    ("rule", "files", "wanted"),
    [
        (floors, {"utils/a.py": "import models.darknet"}, "utils/a.py:1: utils imports models.darknet"),
        (floors, {"utils/a.py": "def f():\n    from data import coco"}, "utils/a.py:2: utils imports data"),
        (floors, {"utils/a.py": "import train"}, "utils/a.py:1: utils imports train"),
        (floors, {"data/a.py": "from models.heads import yolo"}, "data/a.py:1: data imports models.heads"),
        (floors, {"models/losses/a.py": "from ...data import b"}, "models/losses/a.py:1: models imports data"),
        (floors, {"models/a.py": "from tests import conftest"}, "models/a.py:1: models imports tests"),
        (floors, {"models/a.py": "from training.flags import f"}, "models/a.py:1: models imports training.flags"),
        (
            floors,
            {"evaluation/a.py": "import inference.files"},
            "evaluation/a.py:1: evaluation imports inference.files",
        ),
        (floors, {"export/a.py": "import evaluation"}, "export/a.py:1: export imports evaluation"),
        (floors, {"training/a.py": "from inference import b"}, "training/a.py:1: training imports inference"),
        (floors, {"eval.py": "from train import main"}, "eval.py:1: a script imports train"),
        (floors, {"eval.py": "import benchmarks.loader"}, "eval.py:1: a script imports benchmarks.loader"),
        (
            inner_floors,
            {"models/graph.py": "from models.losses import simota", "models/losses/simota.py": ""},
            "models/graph.py:1: models/graph imports models/losses",
        ),
        (
            inner_floors,
            {"models/heads/yolo.py": "from ..shapes import measure", "models/shapes.py": ""},
            "models/heads/yolo.py:1: models/heads imports models/shapes",
        ),
        (
            inner_floors,
            {"data/loading/reader.py": "import data.scan", "data/scan.py": ""},
            "data/loading/reader.py:1: data/loading imports data/scan",
        ),
        (
            parts_of_train,
            {"training/step.py": "from training.search import run", "training/search/run.py": ""},
            "training/step.py:1: imports training.search.run, which is for train.py",
        ),
        (
            no_circles,
            {
                "utils/cfg/__init__.py": "from utils.cfg.edit import with_size",
                "utils/cfg/edit.py": "from . import heads",
                "utils/cfg/heads.py": "from utils import boxes",
                "utils/boxes.py": "def area():\n    from utils.cfg import heads",
            },
            "utils/boxes.py, utils/cfg/heads.py: import each other",
        ),
        (early_imports, {"data/a.py": "def f():\n    import utils.boxes"}, "data/a.py:2: utils.boxes late"),
        (programs, {"check.py": "def main(): ..."}, "check.py: does not end in cli.run(main)"),
        (programs, {"check.py": ""}, "check.py: does not end in cli.run(main)"),
        (packages, {"data/formats/coco.py": ""}, "data/formats: no __init__.py"),
        (
            small_folders,
            {"models/ops/a.cpp": ""} | {f"models/ops/{number}.py": "" for number in range(24)},
            "models/ops: 25 source files (at most 24)",
        ),
        (
            small_folders,
            {"utils/cfg.py": "", "utils/cfg_net.py": "", "utils/cfg_edit.py": ""},
            "utils: 3 files begin with cfg (make it a folder)",
        ),
        (clear_names, {"utils/helpers.py": ""}, "utils/helpers.py: a file named helpers"),
        (clear_names, {"eval.py": "from utils.boxes import *"}, "eval.py:1: star import of utils.boxes"),
        (small_parts, {"data/a.py": LONG}, "data/a.py: f has 61 lines (at most 60)"),
        (small_parts, {"data/a.py": WIDE}, "data/a.py: f takes 9 values (at most 8)"),
        (small_parts, {"data/a.py": "x = 1\n" * 351}, "data/a.py: 351 lines (at most 350)"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, rule: Rule, files: dict[str, str], wanted: str) -> None:
    broken = built(tmp_path, files)
    rule = {early_imports: _no_late, small_parts: _none_wide}.get(rule, rule)
    assert list(rule(broken)) == [wanted]


def test_an_exception_that_nobody_needs_is_found(tmp_path: Path) -> None:
    files = {"models/__init__.py": "from models import loading", "models/loading.py": "def load(a, b): ..."}
    allowed = {("models/__init__.py", "models.loading"): "why"}
    wide = {("models/loading.py", "load"): "why"}
    now = built(tmp_path, files)
    assert list(early_imports(now, allowed)) == ["models/__init__.py: no late models.loading, take it off the list"]
    assert list(small_parts(now, wide)) == ["models/loading.py: load takes few, take it off the list"]


def test_what_is_allowed_is_not_a_breach(tmp_path: Path) -> None:
    files = {
        "train.py": f"from training.search import run\n{PROGRAM}",
        "export.py": f"from export.flags import f\n{PROGRAM}",
        "eval.py": f"from data import coco\nfrom models import load_network\nimport utils.boxes\n{PROGRAM}",
        "export/flags.py": "from models.heads import yolo",
        "training/search/run.py": "from training.search.space import f\nfrom evaluation import coco",
        "training/search/space.py": "import optuna",
        "models/heads/yolo.py": "from .cells import f\nfrom utils import cfg",
        "models/heads/cells.py": LONG.replace("    x = 1\n", "", 1),
        "models/losses/simota.py": "from models.heads.yolo import f",
        "data/b.py": "from utils.boxes import area\nfrom data import coco",
        "data/scan.py": "from data.b import f",
        "utils/boxes.py": "import torch\nfrom utils import cfg\nfrom . import nms",
        "utils/cfg/__init__.py": "from utils.cfg.heads import Yolo",
        "utils/cfg/heads.py": WIDE.replace("a, b", "a"),
        "utils/cfg/edit.py": "from utils.cfg import heads",
        "benchmarks/loader.py": "from eval import main\nfrom tests import house",
    }
    folders = {str(Path(name).parent) for name in files} - {"."}
    house = built(tmp_path, files | {f"{folder}/__init__.py": "" for folder in folders} | files)
    for rule in RULES:
        rule = {early_imports: _no_late, small_parts: _none_wide}.get(rule, rule)
        assert list(rule(house)) == []


def built(root: Path, files: Mapping[str, str]) -> House:
    """A repository of ``files``, by name, and a train.py."""
    for name, text in ({"train.py": PROGRAM} | dict(files)).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return House(root)


def _no_late(house: House) -> Iterator[str]:
    return early_imports(house, {})


def _none_wide(house: House) -> Iterator[str]:
    return small_parts(house, {})
