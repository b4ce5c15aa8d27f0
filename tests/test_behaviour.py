"""What the programs compute, to the bit: how it is written down, and that it is as it was.

A change that is to change nothing, such as moving modules, is shown to change nothing in three steps:

    python -m tests.behaviour --write before.json        before it; some minutes
    python -m tests.behaviour --compare before.json      after it; or, with everything else that is slow,
    BEHAVIOUR_BASELINE=before.json make soak

The digests are those of one processor and one version of torch: another vector width adds in another order. So the
repository holds none of them; they are written where they are compared, of an older tree with ``--root``.
"""

from __future__ import annotations

import copy
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.behaviour import __main__ as program
from tests.behaviour import cases
from tests.behaviour.digests import Digests, file_digests, folder_digests, masked
from tests.behaviour.pictures import write_cells, write_clip, write_shades
from tests.behaviour.programs import Place, ProgramFailed

BASELINE = "BEHAVIOUR_BASELINE"
METRICS = {"iteration": 8, "ap50": 0.25, "seconds": 1.5}

# --- checkpoints --------------------------------------------------------------------------------------------------


def checkpoint() -> dict[str, Any]:
    """As a training writes it, in small."""
    tensors = {
        "a.weight": torch.arange(6.0).reshape(2, 3),
        "a.count": torch.tensor(3),
        "a.half": torch.ones(2).bfloat16(),
    }
    return {"model": tensors, "cfg": "[net]", "iteration": 8, "best": {"score": 0.5}, "torch": "2.0", "betas": [0.9]}


def digests_of(state: dict[str, Any], folder: Path) -> Digests:
    torch.save(state, folder / "last.pt")
    return file_digests(folder / "last.pt", {})


def flip_a_bit(state: dict[str, Any]) -> None:
    state["model"]["a.weight"].view(torch.int32)[1, 2] ^= 1


def rename(state: dict[str, Any]) -> None:
    state["model"]["b.weight"] = state["model"].pop("a.weight")


def reshape(state: dict[str, Any]) -> None:
    state["model"]["a.weight"] = state["model"]["a.weight"].reshape(3, 2)


def retype(state: dict[str, Any]) -> None:
    state["model"]["a.half"] = state["model"]["a.half"].view(torch.float16)


def drop(state: dict[str, Any]) -> None:
    del state["model"]["a.count"]


@pytest.mark.parametrize("change", [flip_a_bit, rename, reshape, retype, drop])
def test_a_changed_tensor_changes_that_digest_alone(change: Callable[[dict], None], tmp_path: Path) -> None:
    before, state = digests_of(checkpoint(), tmp_path), checkpoint()
    change(state)
    after = digests_of(state, tmp_path)
    assert after["tensors"] != before["tensors"] and after["values"] == before["values"]


@pytest.mark.parametrize(
    "change",
    [{"iteration": 9}, {"iteration": 8.0}, {"cfg": "[net] "}, {"best": {"score": 0.25}}, {"betas": []}, {"new": 1}],
)
def test_a_changed_value_changes_that_digest_alone(change: dict[str, Any], tmp_path: Path) -> None:
    before, after = digests_of(checkpoint(), tmp_path), digests_of(checkpoint() | change, tmp_path)
    assert after["values"] != before["values"] and after["tensors"] == before["tensors"]


def test_version_order_and_strides_are_not_what_a_checkpoint_holds(tmp_path: Path) -> None:
    state = dict(reversed(copy.deepcopy(checkpoint()).items())) | {"torch": "2.1"}
    state["model"]["a.weight"] = state["model"]["a.weight"].t().contiguous().t()
    assert digests_of(state, tmp_path) == digests_of(checkpoint(), tmp_path)


# --- other files --------------------------------------------------------------------------------------------------


def digest_of(name: str, content: str | bytes, folder: Path, places: dict[str, str] | None = None) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (digest,) = file_digests(folder / name, places or {}).values()
    return digest


@pytest.mark.parametrize(("name", "ending"), [("metrics.jsonl", "\n"), ("best.json", "")])
def test_a_metric_changes_the_digest_and_a_time_does_not(name: str, ending: str, tmp_path: Path) -> None:
    first, slower, better = (
        digest_of(name, json.dumps(METRICS | change) + ending, tmp_path)
        for change in ({}, {"seconds": 9.0}, {"ap50": 0.2500001})
    )
    assert first == slower != better


def test_a_folder_of_the_machine_changes_no_digest(tmp_path: Path) -> None:
    places = {"/here": "", "/here/work": "<folder>"}
    assert digest_of("a.txt", "in /here/work/run", tmp_path, places) == digest_of("a.txt", "in <folder>/run", tmp_path)
    assert digest_of("a.json", '["/here/work"]', tmp_path, places) == digest_of("a.json", '["<folder>"]', tmp_path)
    assert digest_of("a.png", "/here", tmp_path, places) != digest_of("a.png", "", tmp_path)  # bytes are bytes


def test_what_is_printed_keeps_all_but_times_and_folders() -> None:
    said = "iteration 3 of 9: loss 2 lr 0.1\niteration 8: AP50 0.250\n        8      1.5  0.250  0.125  best\n"
    said += "at /here/cfg: 6 frames in 1.2 s (5.0 frames/s), 20 s\nevents.out.tfevents.17.host.4 last.pt\n"
    assert masked(said, {"/here/": ""}).splitlines() == [
        "iteration 8: AP50 0.250",
        "        8 <minutes>  0.250  0.125  best",
        "at cfg: 6 frames in <time> s (<time> frames/s), 20 s",
        "events.out.tfevents last.pt",
    ]


def event(time: float, step: int, text: bytes) -> bytes:
    """A record of TensorBoard: wall time, step and one field of text; checksums are not looked at."""
    message = b"\x09" + struct.pack("<d", time) + b"\x10" + bytes([128 | step & 127, step >> 7])
    message += b"\x2a" + bytes([len(text)]) + text
    return struct.pack("<QI", len(message), 7) + message + struct.pack("<I", int(time))


def test_an_event_changes_the_digest_and_its_time_does_not(tmp_path: Path) -> None:
    events = [(1.0, 300, b"loss"), (2.0, 300, b"loss"), (1.0, 301, b"loss"), (1.0, 300, b"lr")]
    digests = [digest_of("events.out.tfevents.1.host", event(1, 1, b"") + event(*one), tmp_path) for one in events]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_folder_has_a_digest_for_each_file_that_was_made(tmp_path: Path) -> None:
    for name in ("given/a.png", ".hidden", "run/.lock", "run/best.weights", "run/events.out.tfevents.5.host.9"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    digests_of(checkpoint(), tmp_path / "run")
    whats = ["run/best.weights", "run/events.out.tfevents.0", "run/last.pt tensors", "run/last.pt values"]
    assert list(folder_digests(tmp_path, inputs=["given"])) == whats


# --- programs and cases -------------------------------------------------------------------------------------------


def test_the_data_are_the_same_each_time(tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        write_cells(tmp_path / number / "cells")
        write_shades(tmp_path / number / "shades")
        write_clip(tmp_path / number / "clip.avi")
    assert folder_digests(tmp_path / "1") == folder_digests(tmp_path / "2") != {}


def test_a_program_is_run_and_what_it_says_is_kept(tmp_path: Path) -> None:
    place = Place(program.ROOT, tmp_path / "place")
    said = place.run("train.py --data cells", code=2)
    assert said.startswith("yolov4: error: train.py: --cfg is needed")
    assert (tmp_path / "place/printed-01-train.txt").read_text() == said
    assert list(place.digests()) == ["printed-01-train.txt"]
    with pytest.raises(ProgramFailed, match=r"train\.py --data cells: ended with 2 \(wanted 0\): yolov4: error"):
        place.run("train.py --data cells")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Digests]:
    """What cases find that are only pretended; one without digests fails."""
    found: dict[str, Digests] = {}

    def case(name: str) -> Callable[..., Digests]:
        def run(bench: cases.Bench, place: Place) -> Digests:
            if not found[name]:
                raise ProgramFailed("it crashed")
            return found[name]

        return run

    every = {name: case(name) for name in ("machine", "one", "two")}
    for module in (cases, program):
        monkeypatch.setattr(module, "CASES", every)
    found.update({name: {"a.txt": f"{name} a", "b.txt": f"{name} b"} for name in every})
    return found


def test_nothing_changed(pretended: dict[str, Digests], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "before.json"
    assert program.main(["--write", str(file)]) == 0
    assert json.loads(file.read_text()) == pretended
    assert program.main(["--compare", str(file)]) == 0
    assert capsys.readouterr().out.endswith("two                  same (2)\n0 of 3 cases differ\n")


@pytest.mark.parametrize(
    ("now", "verdict"),
    [
        ({"a.txt": "other", "b.txt": "one b"}, "DIFFERENT: a.txt"),
        ({"a.txt": "one a", "c.txt": "one b"}, "DIFFERENT: b.txt is gone; c.txt is new"),
        ({}, "DIFFERENT: it crashed"),
    ],
)
def test_something_changed(
    pretended: dict[str, Digests],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    now: Digests,
    verdict: str,
) -> None:
    file = tmp_path / "before.json"
    program.main(["--write", str(file)])
    pretended["one"] = now
    assert program.main(["--compare", str(file)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == [f"one                  {verdict}", "two                  same (2)", "1 of 3 cases differ: one"]
    assert program.main(["--compare", str(file), "--only", "two"]) == 0


def test_cases_that_are_new_or_gone(
    pretended: dict[str, Digests], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "before.json"
    file.write_text(json.dumps({"one": pretended["one"], "old": {}}))
    assert program.main(["--compare", str(file)]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "two                  new: not written down before",
        "old                  DIFFERENT: there is no such case any more",
        "1 of 4 cases differ: old",
    ]


def test_what_fails_is_not_written_down(pretended: dict[str, Digests], tmp_path: Path) -> None:
    pretended["two"] = {}
    assert program.main(["--write", str(tmp_path / "before.json")]) == 1
    assert not list(tmp_path.iterdir())


# --- for as long as it takes --------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("name", ["heads", "sampled"])
def test_a_case_computes_the_same_twice(name: str, tmp_path: Path) -> None:
    first, second = (cases.Bench(program.ROOT, tmp_path / number).digests(name) for number in ("1", "2"))
    assert first == second


@pytest.mark.soak
def test_everything_is_as_it_was() -> None:
    if BASELINE not in os.environ:
        pytest.skip(f"{BASELINE} names no file of python -m tests.behaviour --write")
    assert program.main(["--compare", os.environ[BASELINE]]) == 0
