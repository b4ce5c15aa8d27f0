"""utils.cli: shared flags, and every way a script can end as one line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from utils import cli
from utils.errors import (
    CfgError,
    DatasetError,
    Diverged,
    EnvironmentFault,
    ImageError,
    InputError,
    UsageError,
    WeightsError,
)


@pytest.fixture(autouse=True)
def _handlers_as_they_were() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ends_with(main: Callable[[Sequence[str] | None], None], *argv: str) -> object:
    with pytest.raises(SystemExit) as ended:
        cli.run(main, argv)
    return ended.value.code


def raising(error: BaseException) -> Callable[[Sequence[str] | None], None]:
    def main(_argv: Sequence[str] | None) -> None:
        raise error

    return main


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.png")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UsageError("--batch 0: too few"), 2, "--batch 0: too few"),
        (InputError("a.txt:3: no"), 3, "a.txt:3: no"),
        (CfgError("c.cfg:1: no"), 3, "c.cfg:1: no"),
        (WeightsError("w"), 3, "w"),
        (DatasetError("d"), 3, "d"),
        (ImageError("i"), 3, "i"),
        (EnvironmentFault("no codec"), 4, "no codec"),
        (Diverged("nan"), 5, "nan"),
        (InputError("two\n  lines"), 3, "two lines"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "a.cfg"), 3, "a.cfg: No such file or directory"),
        (full_disk(), 4, "out.png: No space left on device"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), 4, "reset"),
        (MemoryError(), 4, "out of memory (no details); try a smaller --batch or --size"),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            4,
            "out of memory (CUDA out of memory.); try a smaller --batch or --size",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(raising(error)) == code
    assert capsys.readouterr().err == f"yolov4: error: {line}\n"


def test_torchs_own_out_of_memory_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(lambda _: torch.empty(1 << 60, dtype=torch.uint8)) == 4
    assert capsys.readouterr().err.startswith("yolov4: error: out of memory (")


def test_debug_adds_the_traceback_and_keeps_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(raising(InputError("broken")), "--debug") == 3
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown and shown.endswith("\nyolov4: error: broken\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), RuntimeError("a bug")])
def test_our_own_faults_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="a bug"):
        cli.run(raising(error), [])
    assert cli.describe(error) == ("a bug", 1)


def test_the_end_of_a_script_that_worked() -> None:
    seen = []
    assert ends_with(seen.append, "--flag", "3") == 0
    assert seen == [("--flag", "3")]


def test_arguments_come_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("sys.argv", ["x.py", "--a"])
    with pytest.raises(SystemExit):
        cli.run(seen.append)
    assert seen == [["--a"]]


def test_a_script_may_choose_its_code() -> None:
    assert ends_with(raising(SystemExit(7))) == 7


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main(_argv: Sequence[str] | None) -> None:
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("a signal is no Exception, so that nothing swallows it")

    assert ends_with(main) == code
    assert capsys.readouterr().err == ""


def test_usage_errors_are_one_line_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.Parser(prog="x.py")
    parser.add_argument("--good")
    assert ends_with(lambda argv: parser.parse_args(argv) and None, "--bad") == 2
    assert capsys.readouterr().err == "yolov4: error: x.py: unrecognized arguments: --bad; see x.py --help\n"


@pytest.mark.parametrize(("text", "size"), [("608", (608, 608)), ("416x608", (416, 608)), ("32X8192", (32, 8192))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert cli.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "31", "8193", "608x", "x608", "608x608x3", "6.5", "-608", "²64"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size .wanted 608, or HEIGHTxWIDTH as 416x608"):
        cli.parse_size(text)


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [(cli.positive_int, "1", 1), (cli.whole_number, "0", 0), (cli.fraction, "0", 0.0), (cli.fraction, ".5", 0.5)],
)
def test_numbers(convert: Callable[[str], float], text: str, value: float) -> None:
    assert convert(text) == value


@pytest.mark.parametrize(
    ("convert", "text", "message"),
    [
        (cli.positive_int, "0", "'0' is not a whole number of at least 1"),
        (cli.positive_int, "1.5", "'1.5' is not a whole number of at least 1"),
        (cli.whole_number, "-1", "'-1' is not a whole number of at least 0"),
        (cli.whole_number, "many", "'many' is not a whole number of at least 0"),
        (cli.fraction, "1.1", "'1.1' is not a number from 0 to 1"),
        (cli.fraction, "nan", "'nan' is not a number from 0 to 1"),
        (cli.fraction, "half", "'half' is not a number from 0 to 1"),
    ],
)
def test_numbers_that_are_none(convert: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        convert(text)


@pytest.fixture
def parser() -> cli.Parser:
    parser = cli.Parser(prog="x.py")
    cli.add_network_flags(parser, default_cfg="yolov4")
    cli.add_device_flags(parser, workers=3)
    cli.add_threshold_flags(parser, score=0.25)
    return parser


def test_defaults_of_the_shared_flags(parser: cli.Parser) -> None:
    args = vars(parser.parse_args([]))
    assert args == {
        "cfg": "yolov4", "weights": None, "names": None, "size": None, "letterbox": None,
        "device": "auto", "precision": "auto", "workers": 3, "debug": False,
        "score_threshold": 0.25, "nms_threshold": 0.45,
    }  # fmt: skip


def test_shared_flags(parser: cli.Parser) -> None:
    args = parser.parse_args(["--size", "416x608", "--stretch", "--precision", "bf16", "--score-threshold", ".1"])
    assert (args.size, args.letterbox, args.precision, args.score_threshold) == ((416, 608), False, "bf16", 0.1)
    assert parser.parse_args(["--letterbox"]).letterbox is True


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--letterbox", "--stretch"], "not allowed with argument"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
        (["--size", "7"], "'7' is not a size"),
        (["--workers", "-1"], "'-1' is not a whole number of at least 0"),
    ],
)
def test_shared_flags_that_are_wrong(parser: cli.Parser, argv: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parser.parse_args(argv)


def test_flags_that_were_given_are_refused_together() -> None:
    args = argparse.Namespace(save_txt=True, view=False, classes=None, plots="here")
    cli.refuse(args, ("view", "classes", "absent"), "never said")
    with pytest.raises(UsageError, match=r"^--save-txt, --plots: not here$"):
        cli.refuse(args, ("save_txt", "view", "absent", "plots"), "not here")


def test_what_is_decided_later_leaves_the_flags_as_they_were() -> None:
    args = argparse.Namespace(data=None, batch=8)
    decided = cli.with_values(args, data="sample")
    assert (decided.data, decided.batch) == ("sample", 8) and args.data is None
    assert type(decided) is argparse.Namespace
