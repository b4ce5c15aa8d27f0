"""What the scripts share: flags that mean the same everywhere, one-line errors, exit codes."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from utils.errors import UsageError, UserError
from utils.memory import keep_freed_memory
from utils.structures import Size

EXIT_BUG, EXIT_INPUT, EXIT_ENVIRONMENT = 1, 3, 4
ABOUT_BOXES = "about boxes, of which a classifier knows nothing; drop what is given"
_NO_MEMORY = "can't allocate memory"  # how torch's CPU allocator says it, in a plain RuntimeError
_NO_GPU_MEMORY = "OutOfMemoryError"  # torch's; by name, as a refusal should not wait until torch is imported
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


if TYPE_CHECKING:

    class Flags:
        """The values of a program's flags; each program annotates its own in a class derived from this one.

        At run time it is argparse's Namespace, whose ``__getattr__`` would let a misspelt flag pass a type checker.
        """

        def __init__(self, **values: object) -> None: ...
        def __contains__(self, name: str) -> bool: ...

else:
    Flags = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line like all others, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


class Terminated(BaseException):
    """SIGTERM arrived; a BaseException so that no ``except Exception`` swallows it."""


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> NoReturn:
    """Run a script's ``main`` and turn every way it can end into an exit code.

    0 ok, 1 a bug of ours, 2 usage, 3 bad input file, 4 environment, 5 diverged, 130 SIGINT, 143 SIGTERM.
    A traceback is shown with ``--debug`` only, or where the fault is ours.
    """
    keep_freed_memory()
    attempt(main, argv)
    sys.exit(0)


def attempt(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """As `run`, but where ``main`` comes to its end the program goes on."""
    arguments = sys.argv[1:] if argv is None else argv
    debug = "--debug" in arguments
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        main(arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Terminated:
        sys.exit(128 + signal.SIGTERM)
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        message, code = describe(error)
        if code == EXIT_BUG:
            raise
        if debug:
            traceback.print_exc()
        print(f"yolov4: error: {message}", file=sys.stderr)
        sys.exit(code)
    signal.signal(signal.SIGTERM, before)


def describe(error: BaseException) -> tuple[str, int]:
    """One line for the user and the exit code."""
    if isinstance(error, UserError):
        return _one_line(error), error.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == _NO_GPU_MEMORY or _NO_MEMORY in str(error):
        return f"out of memory ({_one_line(error) or 'no details'}); try a smaller --batch or --size", EXIT_ENVIRONMENT
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        what = error.strerror or _one_line(error)
        code = EXIT_ENVIRONMENT if error.errno in _FULL_DISK or not error.filename else EXIT_INPUT
        return f"{where}{what}", code
    return _one_line(error), EXIT_BUG


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _raise_terminated(_signal: int, _frame: object) -> NoReturn:
    raise Terminated


Given = TypeVar("Given", bound=Flags)


def with_values(args: Given, **values: object) -> Given:
    """The flags with other values for some: what was decided after they were read."""
    return type(args)(**{**vars(args), **values})


def refuse(args: Flags, names: Collection[str], why: str) -> None:
    """Refuse those of the flags ``names`` that were given.

    Raises:
        UsageError: with these flags and ``why``.
    """
    given = [name for name in names if getattr(args, name, None)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{flags}: {why}")


def parse_size(text: str) -> Size:
    """``608`` or ``HEIGHTxWIDTH`` (``416x608``) to (H, W)."""
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(
        part.isascii() and part.isdigit() and 32 <= int(part) <= 8192 for part in parts
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size (wanted 608, or HEIGHTxWIDTH as 416x608)")
    return int(parts[0]), int(parts[-1])


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    return _int_from(text, 1)


def whole_number(text: str) -> int:
    """A whole number of at least 0."""
    return _int_from(text, 0)


def _int_from(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def number(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def fraction(text: str) -> float:
    """A number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def add_network_flags(parser: argparse.ArgumentParser, *, default_cfg: str | None = None) -> None:
    """--cfg --weights --names --size --letterbox/--stretch."""
    group = parser.add_argument_group("network")
    group.add_argument("--cfg", default=default_cfg, help="a Darknet cfg: a path, or a name looked up in cfg/")
    group.add_argument("--weights", help="Darknet .weights, a backbone such as yolov4.conv.137, or a .pt of train.py")
    group.add_argument("--names", help="class names, one a line (default: those of the data or the checkpoint)")
    group.add_argument("--size", type=parse_size, help="input size, 608 or HEIGHTxWIDTH (default: the cfg's)")
    add_letterbox_flags(group)


def add_letterbox_flags(parser: argparse._ActionsContainer) -> None:
    """--letterbox/--stretch: ``letterbox`` is None where neither is given."""
    box = parser.add_mutually_exclusive_group()
    box.add_argument("--letterbox", dest="letterbox", action="store_true", default=None, help="keep the aspect ratio")
    box.add_argument("--stretch", dest="letterbox", action="store_false", help="fill the input (default: as the cfg)")


def add_device_flags(parser: argparse.ArgumentParser, *, workers: int = 2) -> None:
    """--device --precision --workers --debug."""
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    group.add_argument("--workers", type=whole_number, default=workers, help="loading processes (default %(default)s)")
    group.add_argument("--debug", action="store_true", help="show tracebacks")


def add_compile_flag(parser: argparse._ActionsContainer) -> None:
    """--compile, for a network that is not trained."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help="make the network faster by torch.compile: a minute once, for many images",
    )


def add_threshold_flags(
    parser: argparse.ArgumentParser, *, score: float | None, nms: float | None = 0.45, note: str = "default %(default)s"
) -> None:
    """--score-threshold --nms-threshold; ``note`` says what they are where they are not given."""
    group = parser.add_argument_group("detections")
    group.add_argument("--score-threshold", type=fraction, default=score, help=f"({note})")
    group.add_argument("--nms-threshold", type=fraction, default=nms, help=f"({note})")
