"""utils.checkpoint: what is written comes back, what is damaged or hostile is refused."""

from __future__ import annotations

import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import EnvironmentFault, WeightsError

STATE = {
    "model": {"w": torch.arange(600.0).reshape(20, 30), "n": torch.tensor(3)},
    "cfg": "[net]\n",
    "names": ["cat", "größe"],
    "iteration": 7,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "last.pt", STATE)
    return tmp_path / "last.pt"


def test_round_trip(path: Path) -> None:
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])
    assert (state["cfg"], state["names"], state["iteration"]) == ("[net]\n", ["cat", "größe"], 7)


def test_every_flipped_bit_is_seen(path: Path) -> None:
    good = path.read_bytes()
    rng = random.Random(0)
    silent = 0
    for _ in range(200):
        position, bit = rng.randrange(len(good)), rng.randrange(8)
        damaged = bytearray(good)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            state = load_checkpoint(path)
        except WeightsError:
            continue
        same = torch.equal(state["model"]["w"], STATE["model"]["w"]) and state["cfg"] == STATE["cfg"]
        silent += not same
    assert silent == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_every_truncation_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "last.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: length % len(whole)])
    with pytest.raises(WeightsError, match=r"last\.pt: "):
        load_checkpoint(path)


class _Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.marker,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"schema": 1, "model": {"w": _Evil(marker)}, "cfg": "", "names": []}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match=r"evil\.pt: refused, it holds more than tensors and text"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({"cfg": ""}, "has no int 'schema'"),
        ({"schema": 1, "model": {}, "cfg": 3, "names": []}, "has no str 'cfg'"),
        ({"schema": 99, "model": {}, "cfg": "", "names": []}, "schema 99 is newer"),
        ({"schema": 1, "model": {"w": torch.tensor(float("nan"))}, "cfg": "", "names": []}, "model.w: holds NaN"),
        ({"schema": 1, "model": {"w": torch.eye(2).to_sparse()}, "cfg": "", "names": []}, "wanted plain numbers"),
        ({"schema": 1, "model": {"w": torch.ones(1, dtype=torch.complex64)}, "cfg": "", "names": []}, "plain numbers"),
    ],
)
def test_wrong_content_is_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(tmp_path / "x.pt")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")


def test_forged_archives(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"0" * 10**7)
    with pytest.raises(WeightsError, match="entries larger than the file"):
        load_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_checkpoint(path)


def test_two_entries_of_one_name(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.infolist()[0].filename, b"x")
    with pytest.raises(WeightsError, match="two entries of the same name"):
        load_checkpoint(path)


def test_full_disk_keeps_the_old_checkpoint(path: Path) -> None:
    import resource
    import signal

    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(EnvironmentFault, match="cannot write: File too large .*before is untouched"):
            save_checkpoint(path, {**STATE, "model": {"w": torch.zeros(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["last.pt"]
