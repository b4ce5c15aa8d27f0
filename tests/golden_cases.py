"""Where Darknet's own numbers lie and which cases there are; the tests run every one they find.

The folder is the one ``DARKNET_GOLDEN`` names, else ``../shared/golden``, else the few cases kept in tests/golden.
"""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

OWN = Path(__file__).parent / "golden"
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "golden"
FOLDER = Path(os.environ.get("DARKNET_GOLDEN", _SHARED if _SHARED.is_dir() else OWN))

_BESIDE = ("README.md", "recipe.py", "forward/resize.npz")  # what is no case of its own
_PICTURES = (".png", ".jpg", ".jpeg")
_NORMS = ("cudnnbn", "stock")  # batch norm as on a GPU; a variant without batch norm
MODES = ("stretch", "letterbox")
_FORWARD_KEYS = re.compile(r"input|calib|layers|l\d+_(pre|out)|dets_letter[01]_(raw|nms)")
_TRAINING_KEYS = re.compile(r"truth|s\d+_(lr|weights|d\d+_error|d\d+_l\d+_(out|delta|cost)|l\d+_g[wbs]|d\d+_l\d+_fwd)")


def forward_cases(folder: Path = FOLDER) -> list[str]:
    """Names of the cfgs run forwards: each has NAME.cfg, NAME.npz and NAME.json."""
    return sorted({path.stem for path in _files(folder, "forward") if path.name != "resize.npz"})


def training_cases(folder: Path = FOLDER) -> list[str]:
    """Names of the trainings, VARIANT.cudnnbn or VARIANT.stock: each has VARIANT.cfg and NAME.npz."""
    found = {path.stem for path in _files(folder, "training") if path.suffix == ".npz"}
    begun = {name.split(".")[0] for name in found}
    return sorted(found | {path.stem for path in _files(folder, "training") if path.stem.split(".")[0] not in begun})


def detect_cases(folder: Path = FOLDER) -> list[str]:
    """Names of the files of detections, NETWORK_stretch or NETWORK_letterbox."""
    return sorted(path.stem for path in _files(folder, "detect") if path.suffix not in _PICTURES)


def some(cases: Iterable[str], what: str) -> list:
    """Parameters of a test: the cases, or one that is skipped because there are none."""
    reason = f"DARKNET_GOLDEN: folder {FOLDER.name} has no {what} cases"
    return list(cases) or [pytest.param(None, marks=pytest.mark.skip(reason=reason))]


def faults(folder: Path = FOLDER) -> Iterator[str]:
    """What in the folder no test would look at, or no test could run: there should be nothing."""
    forward, training, detect = forward_cases(folder), training_cases(folder), detect_cases(folder)
    wanted = {f"forward/{name}{end}" for name in forward for end in (".cfg", ".npz", ".json")}
    wanted |= {path for name in training for path in (f"training/{name.split('.')[0]}.cfg", f"training/{name}.npz")}
    wanted |= {f"detect/{name}.json" for name in detect}
    there = {str(path.relative_to(folder)) for path in _files(folder)}
    pictures = {name for name in there if name.startswith("detect/") and name.endswith(_PICTURES)}
    yield from (f"{name}: missing" for name in sorted(wanted - there))
    yield from (f"{name}: not part of any case" for name in sorted(there - wanted - pictures - set(_BESIDE)))
    yield from (
        f"{name}: not VARIANT.{' or .'.join(_NORMS)}" for name in training if name.partition(".")[2] not in _NORMS
    )
    yield from (f"{name}: not NETWORK_{' or _'.join(MODES)}" for name in detect if name.split("_")[-1] not in MODES)
    for group, names, keys in (("forward", forward, _FORWARD_KEYS), ("training", training, _TRAINING_KEYS)):
        for path in (folder / group / f"{name}.npz" for name in names):
            unknown = [key for key in _keys(path) if not keys.fullmatch(key)]
            yield from (f"{path.name}: unknown key {key}" for key in unknown)


def _keys(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with np.load(path) as arrays:
        return list(arrays)


def _files(folder: Path, group: str = "") -> list[Path]:
    hidden = ("__pycache__",)
    return [path for path in (folder / group).rglob("*") if path.is_file() and path.parent.name not in hidden]


def load_recipe(folder: Path = FOLDER) -> ModuleType:
    """The recipe that drew the weights and inputs Darknet was given: the folder's own, or ours."""
    path = folder / "recipe.py"
    spec = importlib.util.spec_from_file_location("recipe", path if path.is_file() else OWN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_weights(folder: Path, cfg: Path, target: Path, seed: int, calib: np.ndarray | None = None) -> None:
    """Write the .weights file that Darknet was given for ``cfg``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a recipe may leave closing its cfg to Python
        load_recipe(folder).write_weights(str(cfg), str(target), seed, calib=calib)
