"""training.search.run: a search with trainings that are only pretended, and one with real ones."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

import train
from tests.painted import write_painted
from training.cfg import read_cfg
from training.flags import parse_train_flags
from training.search import run as tune
from training.search.space import BOXES, HEADS, SGD, SPACE, WEIGHTED
from utils.cfg import load_cfg
from utils.errors import Diverged, EnvironmentFault, InputError, UsageError

# Pretends to be train.py: the score depends on the learning rate alone; PLAN says what else is to happen.
PRETENDED = """
import json, os, signal, sys, time
from pathlib import Path
words = sys.argv[1:]
resumed = "--resume" in words
out = Path(words[words.index("--resume" if resumed else "--out") + 1])
if resumed:
    words = json.loads((out / "args.json").read_text())
else:
    (out / "args.json").write_text(json.dumps(words))
assert words[words.index("--tune") + 1] == "0"
rate = float([word for word in words if word.startswith("learning_rate=")][-1].split("=")[1])
plan = json.loads(os.environ.get("PLAN", "{}")).get(out.name, {})
open(out / "calls", "a").write("resumed\\n" if resumed else "new\\n")
(out / "network.cfg").write_text("[net]\\nmax_batches=4\\n[convolutional]\\n")
stopped = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda got, frame: stopped.append(got))
if "error" in plan and not Path(plan["error"]).exists():
    print("yolov4: error: " + plan["words"])
    sys.exit(plan["code"])
begin = 1 + 2 * resumed
with open(out / "metrics.jsonl", "a") as file:
    for iteration in range(begin, 5):
        score = plan.get("score", 1 - abs(rate - 0.004)) * iteration / 4
        row = {"iteration": iteration, "ap50": score, "ap": 0.9 - score, "seconds": 1.0}
        if plan.get("blind"):
            row = {"iteration": iteration, "loss": 1.0}
        file.write(json.dumps(row) + "\\n")
        file.flush()
        if iteration == 2 and plan.get("stop") and not resumed:
            (out / "last.pt").write_text("")
            os.kill(os.getppid(), signal.SIGINT)
            until = time.monotonic() + 30
            while not stopped and time.monotonic() < until:
                time.sleep(0.01)
            sys.exit(128 + stopped[0])
if plan.get("wait"):
    until = time.monotonic() + 30
    while not stopped and time.monotonic() < until:
        time.sleep(0.01)
for name in ("best.pt", "last.weights"):
    (out / name).write_text("")
sys.exit(5 if rate > 0.02 or plan.get("diverge") else 0)
"""
SPACE_FLAG = ("--tune-space", "learning_rate,mosaic,loss")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts a search below ``tmp_path`` as train.py does, with trainings that are pretended."""
    pretended = tmp_path / "pretended.py"
    pretended.write_text(PRETENDED)

    def begin(*flags: object, plan: dict | None = None) -> None:
        monkeypatch.setenv("PLAN", json.dumps(plan or {}))
        argv = [str(flag) for flag in flags]
        tune.search(parse_train_flags(argv), argv, train=(sys.executable, "-S", str(pretended)))

    return begin


def flags(out: Path, trials: int, *more: object) -> tuple[object, ...]:
    return ("--cfg", "yolov4-tiny-mish.cfg", "--data", "no data", "--out", out, "--tune", trials, *SPACE_FLAG, *more)


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "search.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_from_its_flags_to_its_best(start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "search"
    start(*flags(out, 5, "--iterations", 4, "--set", "hue=.2"))
    rows = rows_of(out)
    assert [row["trial"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert float(rows[0]["learning_rate"]) == load_cfg("yolov4-tiny-mish.cfg").net.learning_rate  # as without a search
    done = [row for row in rows if row["outcome"] == "complete"]
    for row in done:
        assert float(row["score"]) == pytest.approx(1 - abs(float(row["learning_rate"]) - 0.004), rel=1e-5)
    best = max(done, key=lambda row: float(row["score"]))
    assert (out / "search.png").stat().st_size > 10_000
    kept = {path.parent.name for path in out.glob("*/*.pt")}
    assert kept == {path.parent.name for path in out.glob("*/*.weights")} == {f"trial{int(best['trial']):03}"}
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[:5]] == [f"trial {number} of 5" for number in range(1, 6)]
    config = load_cfg(out / "best.cfg")
    assert config.net.learning_rate == pytest.approx(float(best["learning_rate"]))
    assert config.net.hue == 0.2
    assert config.net.max_batches == load_cfg("yolov4-tiny-mish.cfg").net.max_batches
    words = shlex.split(printed[-1].removeprefix("train with it: "))
    pasted = parse_train_flags(words[2:])
    assert (pasted.tune, pasted.out, pasted.iterations, pasted.data) == (0, None, None, "no data")
    assert (pasted.loss, pasted.mosaic) == (best["loss"], pytest.approx(float(best["mosaic"])))
    assert read_cfg(pasted).net.learning_rate == config.net.learning_rate
    assert printed[-1].removeprefix("train with it: ") in (out / "best.cfg").read_text()


def test_a_stopped_search_goes_on_as_if_it_had_not_been(
    start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(*flags(tmp_path / "unbroken", 4))
    out = tmp_path / "stopped"
    for again, flag in enumerate((flags(out, 4), ("--resume", out))):
        trial = f"trial{again + 2:03}"  # the second, then the third
        with pytest.raises(SystemExit) as ended:
            start(*flag, plan={trial: {"stop": True}})
        assert ended.value.code == 130
        assert f"go on with: python train.py --resume {out}" in capsys.readouterr().out
        assert len(rows_of(out)) == again + 1
    start(*flags(out, 4))  # the same command goes on, too
    assert (out / "search.csv").read_text() == (tmp_path / "unbroken" / "search.csv").read_text()
    calls = [(out / f"trial{number:03}" / "calls").read_text().split() for number in range(1, 5)]
    assert calls == [["new"], ["new", "resumed"], ["new", "resumed"], ["new"]]


def test_a_finished_search_is_made_longer(start, tmp_path: Path) -> None:
    start(*flags(tmp_path / "long", 3))
    start(*flags(tmp_path / "short", 1))
    start("--resume", tmp_path / "short", "--tune", 3)
    assert (tmp_path / "short" / "search.csv").read_text() == (tmp_path / "long" / "search.csv").read_text()


def test_a_trial_that_diverges_is_not_the_end(start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(*flags(tmp_path / "run", 3), plan={"trial001": {"diverge": True}})
    rows = rows_of(tmp_path / "run")
    assert [row["outcome"] for row in rows] == ["diverged", "complete", "complete"]
    assert rows[0]["score"] == ""
    assert "1 of 3 trials diverged" in capsys.readouterr().out


def test_when_all_diverge(start, tmp_path: Path) -> None:
    plan = {f"trial{number:03}": {"diverge": True} for number in (1, 2)}
    with pytest.raises(Diverged, match=r"run: all 2 trials diverged; give a lower range, see --tune-space"):
        start(*flags(tmp_path / "run", 2), plan=plan)


def test_a_hopeless_trial_is_given_up(start, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"trial005": {"score": 0.001, "wait": True}} | {f"trial00{n}": {"score": 0.5} for n in range(1, 5)}
    start(*flags(tmp_path / "run", 5, "--tune-space", "learning_rate=1e-4..1e-2"), plan=plan)
    assert [row["outcome"] for row in rows_of(tmp_path / "run")] == ["complete"] * 4 + ["pruned"]
    assert "trial 5 of 5: AP50 0.001 (given up)" in capsys.readouterr().out


def test_ap_decides_where_it_is_asked_for(start, tmp_path: Path) -> None:
    start(*flags(tmp_path / "run", 1, "--best-by", "ap"), plan={"trial001": {"score": 0.8}})
    assert float(rows_of(tmp_path / "run")[0]["score"]) == pytest.approx(0.9 - 0.2)  # the best of its evaluations


@pytest.mark.parametrize(("code", "kind"), [(2, UsageError), (3, InputError), (4, EnvironmentFault)])
def test_what_would_end_every_trial_ends_the_search_until_it_is_mended(
    start, tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    out, mended = tmp_path / "run", tmp_path / "mended"
    plan = {"trial002": {"error": str(mended), "words": "no such data", "code": code}}
    with pytest.raises(kind, match=f"trial002: its training ended with code {code}: no such data; see .*log.txt"):
        start(*flags(out, 2), plan=plan)
    mended.touch()
    start("--resume", out, plan=plan)
    assert [row["outcome"] for row in rows_of(out)] == ["complete"] * 2


def test_a_training_that_never_evaluates(start, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="trial001: its training ended with code 0: it was not evaluated once"):
        start(*flags(tmp_path / "run", 1), plan={"trial001": {"blind": True}})


def test_one_folder_holds_one_search(start, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(*flags(out, 1))
    with pytest.raises(
        UsageError, match=r"run: holds a search with other --batch, --set; go on with --resume .*run, or"
    ):
        start(*flags(out, 1, "--batch", 4, "--set", "hue=0"))
    start(*flags(out, 2, "--workers", 1))  # changes nothing that is computed
    assert len(rows_of(out)) == 2
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "args.json").write_text((out / "args.json").read_text())
    with pytest.raises(UsageError, match=r"training: holds a training, no search; leave --tune out"):
        start("--resume", tmp_path / "training", "--tune", 2)
    with pytest.raises(UsageError, match=r"training: holds a run already; give another --out"):
        start(*flags(tmp_path / "training", 2))


def test_not_under_torchrun(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="--tune: a search starts its trainings itself; start it without torchrun"):
        start(*flags(tmp_path / "run", 2))


def test_a_nominal_batch_holds_for_rates_that_are_tried(start, tmp_path: Path) -> None:
    start(*flags(tmp_path / "run", 1, "--recipe", "scaled"))
    words = json.loads((tmp_path / "run" / "trial001" / "args.json").read_text())
    args = parse_train_flags(words)
    assert (args.nominal_batch, args.set["learning_rate"]) == (64, "0.01")


def test_what_a_training_can_use() -> None:
    def has(*more: str) -> set[str]:
        args = parse_train_flags(["--cfg", "yolov4-tiny.cfg", *more])
        return set(tune.situation_of(args, read_cfg(args)).has)

    assert has() == {HEADS, SGD, BOXES}
    assert has("--optimizer", "adamw") == {HEADS, BOXES}
    assert has("--set", "adam=1") == {HEADS, BOXES}
    assert has("--class-weights", "auto") == {HEADS, SGD, BOXES, WEIGHTED}
    assert has("--class-weights", "none") == {HEADS, SGD, BOXES}
    assert has("--cfg", "cifar.cfg") == {SGD}
    assert has("--cfg", "csdarknet53.cfg") == set()  # deep: AdamW
    assert has("--cfg", "csdarknet53.cfg", "--recipe", "darknet") == {SGD}


def test_what_values_are_without_a_search() -> None:
    args = parse_train_flags(["--cfg", "yolov4.cfg", "--mixup", ".25", "--set", "decay=.001"])
    config = read_cfg(args)
    found = {parameter.name: tune.value_now(parameter, args, config) for parameter in SPACE}
    assert found["decay"] == 0.001 and found["mixup"] == 0.25
    assert (found["learning_rate"], found["momentum"]) == (config.net.learning_rate, config.net.momentum)
    assert (found["box"], found["mosaic"], found["loss"], found["scale"]) == (0.07, 0.5, "darknet", 0.0)


def test_real_trainings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    painted, out = write_painted(tmp_path / "data"), tmp_path / "run"
    machine = ("--device", "cpu", "--workers", 0, "--precision", "fp32", "--no-scan")
    files = ("--cfg", painted / "painted.cfg", "--data", painted, "--out", out)
    argv = [str(flag) for flag in (*files, *machine, "--iterations", 3, "--tune", 2, "--tune-space", "optimiser,loss")]
    train.main(argv)
    rows = rows_of(out)
    assert [row["outcome"] for row in rows] == ["complete", "complete"]
    trained = load_cfg(out / "trial002" / "network.cfg")
    assert trained.net.learning_rate == pytest.approx(float(rows[1]["learning_rate"]), rel=1e-5)
    assert trained.net.burn_in == round(3 * float(rows[1]["warm_up"]))
    assert json.loads((out / "trial002" / "args.json").read_text())["loss"] == rows[1]["loss"]
    capsys.readouterr()
    assert os.environ.get("WORLD_SIZE") is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler
