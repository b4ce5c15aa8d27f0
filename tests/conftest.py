"""Fixtures shared by all tests: where the reference data lies, quiet and repeatable torch, repeatable examples."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# One thread each: two test processes with two OpenMP threads on two cores wait for each other most of the time.
# Set before torch is loaded, so that the scripts the tests start inherit it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from models.ops.extension import side
from tests.golden_cases import FOLDER
from tests.trainings import no_results_png, one_thread_and_torch_as_it_was, painted  # noqa: F401 - fixtures of all

# A suite started in the background of a shell inherits an ignored SIGINT, and so would the scripts it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run: a change that breaks nothing fails nothing. `make soak` draws others each time.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("same")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{variable}: folder {folder.name} is absent")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images, videos and trained weights."""
    return _folder("SHARED_DATA", _SHARED / "data")


@pytest.fixture(scope="session")
def darknet_golden() -> Path:
    """Numbers that Darknet itself computed."""
    return _folder("DARKNET_GOLDEN", FOLDER)


@pytest.fixture(scope="session")
def darknet_zoo() -> Path:
    """Darknet's own cfg files."""
    return _folder("DARKNET_ZOO", _SHARED / "zoo")


@pytest.fixture(scope="session", autouse=True)
def _operators_are_built() -> None:
    """Compile the fused operators before the first test, where that can be done; it prints a line when it does."""
    side("cpu")


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
