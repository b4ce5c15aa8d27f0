"""Short trainings by train.py: their flags, what they learn from, and what keeps them fast and torch as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.painted import write_painted


@pytest.fixture(scope="module")
def one_thread_and_torch_as_it_was() -> Iterator[None]:
    """Threads that wait for a busy core take longer than one that works; a training makes torch deterministic."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def no_results_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing it takes longer than a short training; the runs of module fixtures draw theirs."""
    monkeypatch.setattr("training.run.plot_results", lambda *_: None)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve painted images and painted.cfg."""
    return write_painted(tmp_path_factory.mktemp("painted") / "data")


def flags(data: Path, out: Path, *more: object, cfg: str = "painted.cfg") -> list[str]:
    """The flags of a training in this process that gives the same numbers each time; ``cfg`` lies beside the data."""
    files = ("--cfg", data / cfg, "--data", data, "--out", out)
    machine = ("--device", "cpu", "--workers", 0, "--precision", "fp32")
    return [str(flag) for flag in (*files, *machine, *more)]


def short(data: Path, out: Path, *more: object, cfg: str = "painted.cfg") -> list[str]:
    """Those of two iterations and an evaluation."""
    return flags(data, out, "--iterations", 2, "--eval-interval", 0, "--no-scan", *more, cfg=cfg)
