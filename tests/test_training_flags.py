"""training.flags: the flags of a new run, and which of them a resumed run may change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.flags import parse_train_flags, save_args
from utils.errors import InputError, UsageError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with flags worth remembering."""
    flags = "--cfg a.cfg --weights w.pt --size 96x64 --set momentum=.5 --set decay=0 --epochs 3 --seed 7 --workers 4"
    save_args(parse_train_flags(flags.split()), tmp_path / "args.json")
    return tmp_path


def test_defaults() -> None:
    args = parse_train_flags(["--cfg", "yolov4"])
    assert (args.data, args.out, args.resume, args.weights, args.seed, args.freeze) == (None, None, None, None, 0, 0)
    assert (args.epochs, args.iterations, args.batch, args.subdivisions, args.mosaic) == (None,) * 5
    assert (args.set, args.scan, args.close_mosaic, args.photometric) == ({}, True, 0.1, "none")


def test_keys_for_the_cfg() -> None:
    args = parse_train_flags(["--cfg", "a", "--set", "learning_rate=0.001", "--set", " steps = 1,2 ", "--no-scan"])
    assert args.set == {"learning_rate": "0.001", "steps": "1,2"}
    assert args.scan is False


@pytest.mark.parametrize("text", ["momentum", "=1", "momentum=", " =1"])
def test_keys_without_value(text: str) -> None:
    with pytest.raises(UsageError, match=f"--set {text}: wanted KEY=VALUE, for example --set learning_rate=0.001"):
        parse_train_flags(["--cfg", "a", "--set", text])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--cfg is needed"),
        ("--cfg a --epochs 3 --iterations 5", "not allowed with argument"),
        ("--cfg a --batch 0", "'0' is not a whole number of at least 1"),
        ("--cfg a --mosaic 2", "'2' is not a number from 0 to 1"),
        ("--cfg a --learning-rate 2", "unrecognized arguments"),
        ("--cfg a --cache floppy", "invalid choice"),
    ],
)
def test_wrong_flags(flags: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_train_flags(flags.split())


def test_a_resumed_run_has_the_flags_it_began_with(run: Path) -> None:
    args = parse_train_flags(["--resume", str(run)])
    assert (args.cfg, args.weights, args.size, args.seed, args.workers) == ("a.cfg", "w.pt", (96, 64), 7, 4)
    assert args.set == {"momentum": ".5", "decay": "0"}
    assert (args.epochs, args.out, args.resume) == (3, str(run), run)


def test_what_may_change(run: Path) -> None:
    flags = "--workers 0 --device cpu --iterations 9 --eval-interval 2 --save-interval 3 --patience 4 --debug"
    args = parse_train_flags(["--resume", str(run), *flags.split()])
    assert (args.workers, args.device, args.iterations, args.epochs) == (0, "cpu", 9, None)
    assert (args.eval_interval, args.save_interval, args.patience, args.debug) == (2, 3, 4, True)


def test_a_value_like_the_default_is_given_too(run: Path) -> None:
    assert parse_train_flags(["--resume", str(run), "--workers", "2"]).workers == 2


@pytest.mark.parametrize(
    "flag",
    ["--cfg a.cfg", "--weights w.pt", "--data d", "--out o", "--size 64", "--batch 2", "--subdivisions 1", "--seed 7",
     "--set a=b", "--freeze 1", "--mosaic 0", "--no-scan", "--letterbox", "--precision bf16", "--activation mish"],
)  # fmt: skip
def test_what_may_not_change(run: Path, flag: str) -> None:
    with pytest.raises(
        UsageError, match=f"--resume goes on as the run began; {flag.split()[0]}.* cannot change .start"
    ):
        parse_train_flags(["--resume", str(run), *flag.split()])


def test_every_flag_is_refused_by_the_name_the_user_gave(run: Path) -> None:
    with pytest.raises(UsageError, match="--close-mosaic, --no-scan, --seed cannot change"):
        parse_train_flags(["--resume", str(run), "--seed", "1", "--no-scan", "--close-mosaic", "0"])


def test_flags_that_came_later_have_their_defaults(run: Path) -> None:
    saved = json.loads((run / "args.json").read_text())
    del saved["patience"], saved["close_mosaic"]
    (run / "args.json").write_text(json.dumps(saved))
    args = parse_train_flags(["--resume", str(run)])
    assert (args.patience, args.close_mosaic, args.seed) == (None, 0.1, 7)


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no run to resume .wanted a folder of train.py with args.json"):
        parse_train_flags(["--resume", str(tmp_path / "none")])


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", '"text"'])
def test_broken_flags_of_a_run(run: Path, content: str) -> None:
    (run / "args.json").write_text(content)
    with pytest.raises(InputError, match=r"args\.json: not the flags of a run \(.*\); start a new run with --weights"):
        parse_train_flags(["--resume", str(run)])


def test_regularisation_is_off_unless_asked_for() -> None:
    args = parse_train_flags(["--cfg", "a"])
    assert (args.sat, args.cbn, args.dropblock, args.dropblock_side, args.ema) == (None, False, 0, 7, "modern")
    args = parse_train_flags(
        ["--cfg", "a", "--sat", "1", "--cbn", "--dropblock", ".1", "--dropblock-side", "5", "--ema", "darknet"]
    )
    assert (args.sat, args.cbn, args.dropblock, args.dropblock_side, args.ema) == (1, True, 0.1, 5, "darknet")


def test_a_batch_that_fits_memory() -> None:
    args = parse_train_flags(["--cfg", "a", "--batch", "auto"])
    assert (args.fit_memory, args.batch) == (True, None)
    args = parse_train_flags(["--cfg", "a", "--batch", "16"])
    assert (args.fit_memory, args.batch) == (False, 16)


def test_flags_of_several_processes(run: Path) -> None:
    args = parse_train_flags(["--cfg", "a"])
    assert (args.sync_bn, args.rank_timeout, args.compile) == (False, 120, False)
    args = parse_train_flags(["--resume", str(run), "--rank-timeout", "5", "--compile"])
    assert (args.rank_timeout, args.compile) == (5, True)
    with pytest.raises(UsageError, match="--sync-bn cannot change"):
        parse_train_flags(["--resume", str(run), "--sync-bn"])
