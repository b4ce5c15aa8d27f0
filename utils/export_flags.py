"""The flags of export.py and of its commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from utils import cli
from utils.errors import UsageError

# What a network can be written as: each format is a flag --FORMAT-out FILE.
FORMATS = {"weights": "Darknet's .weights; for a .pt its cfg and names too, beside it"}

ANCHORS = 9  # to fit where no cfg says how many


def parse_export_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Flags of export.py; ``command`` of the result is which of its commands was named first, else "export".

    Without a command, ``formats`` are the files to write, by format.

    Raises:
        UsageError: unknown, missing or contradicting flags.
    """
    command = argv[0] if argv and argv[0] in _COMMANDS else None
    args = _format_flags(argv) if command is None else _COMMANDS[command](argv[1:])
    args.command = command or "export"
    return args


def _format_flags(argv: Sequence[str]) -> argparse.Namespace:
    about = f"Write a network for other programs. Commands: {', '.join(_COMMANDS)}."
    parser = cli.Parser(prog="export.py", description=about)
    _add_source_flags(parser)
    for name, what in FORMATS.items():
        parser.add_argument(f"--{name}-out", type=Path, metavar="FILE", help=what)
    args = parser.parse_args(argv)
    args.formats = {name: path for name in FORMATS if (path := getattr(args, f"{name}_out")) is not None}
    if not args.formats:
        raise UsageError(f"export.py: nothing to write; give {', '.join(f'--{name}-out FILE' for name in FORMATS)}")
    return args


def _partial_flags(argv: Sequence[str]) -> argparse.Namespace:
    about = "Write the first layers of a network, as darknet partial."
    parser = cli.Parser(prog="export.py partial", description=about)
    _add_source_flags(parser)
    parser.add_argument("--layers", type=cli.positive_int, required=True, help="how many, such as 137 for yolov4")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as yolov4.conv.137")
    return parser.parse_args(argv)


def _anchor_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.Parser(prog="export.py anchors", description="Fit anchors to your boxes, as darknet calc_anchors.")
    parser.add_argument("--data", required=True, help="a .data or .yaml file, a COCO folder or annotation json")
    parser.add_argument("--num", type=cli.positive_int, help=f"how many (default: as the cfg, else {ANCHORS})")
    parser.add_argument("--size", type=cli.parse_size, help="of the input (default: the cfg's, else 416)")
    cli.add_letterbox_flags(parser)
    parser.add_argument("--cfg", help="a Darknet cfg: a path, or a name looked up in cfg/")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the cfg with these anchors")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw boxes and anchors, a .png")
    parser.add_argument("--seed", type=cli.whole_number, default=0, help="other starts (default %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)
    if args.out is not None and args.cfg is None:
        raise UsageError("export.py anchors: --out writes a cfg; give the --cfg it is to be made of")
    return args


def _add_source_flags(parser: cli.Parser) -> None:
    """--cfg --weights --debug."""
    parser.add_argument("--cfg", help="a Darknet cfg: a path, or a name looked up in cfg/ (default: that of the .pt)")
    parser.add_argument("--weights", required=True, help="Darknet .weights, or a .pt of train.py")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


_COMMANDS: dict[str, Callable[[Sequence[str]], argparse.Namespace]] = {
    "partial": _partial_flags,
    "anchors": _anchor_flags,
}
