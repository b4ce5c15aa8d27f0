"""The flags of export.py and of its commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from models.graph import plan
from models.preview import check_network
from utils import cli
from utils.cfg import load_cfg, with_size
from utils.errors import UsageError
from utils.structures import Size

# What a network can be written as: each format is a flag --FORMAT-out FILE.
FORMATS = {"weights": "Darknet's .weights; for a .pt its cfg and names too, beside it"}

ANCHORS = 9  # to fit where no cfg says how many


class FormatFlags(cli.Flags):
    """The flags without a command: ``formats`` are the files to write, by format."""

    command: Literal["export"]
    cfg: str | None
    weights: str
    weights_out: Path | None
    formats: dict[str, Path]
    debug: bool


class PartialFlags(cli.Flags):
    """The flags of ``partial``."""

    command: Literal["partial"]
    cfg: str | None
    weights: str
    layers: int
    out: Path
    debug: bool


class AnchorFlags(cli.Flags):
    """The flags of ``anchors``."""

    command: Literal["anchors"]
    cfg: str | None
    data: str
    num: int | None
    size: Size | None
    letterbox: bool | None
    out: Path | None
    plot: Path | None
    seed: int
    debug: bool


ExportFlags = FormatFlags | PartialFlags | AnchorFlags


def parse_export_flags(argv: Sequence[str]) -> ExportFlags:
    """Flags of export.py; ``command`` of the result is which of its commands was named first, else "export".

    Without a command, ``formats`` are the files to write, by format.

    Raises:
        UsageError: unknown, missing or contradicting flags.
    """
    command = argv[0] if argv and argv[0] in _COMMANDS else None
    args = _format_flags(argv) if command is None else _COMMANDS[command](argv[1:])
    args.command = command or "export"  # type: ignore[assignment]  # each function gives the flags of its command
    return args


def preview_export(argv: Sequence[str]) -> None:
    """Refuse what export.py could not do; see `models.preview`.

    Raises:
        UserError: flags, cfg or weights that do not fit.
    """
    args = parse_export_flags(argv)
    if args.command != "anchors":
        check_network(args.cfg, args.weights)
    elif args.cfg is not None:
        config = load_cfg(args.cfg)
        plan(config if args.size is None else with_size(config, args.size))


def _format_flags(argv: Sequence[str]) -> FormatFlags:
    about = f"Write a network for other programs. Commands: {', '.join(_COMMANDS)}."
    parser = cli.Parser(prog="export.py", description=about)
    _add_source_flags(parser)
    for name, what in FORMATS.items():
        parser.add_argument(f"--{name}-out", type=Path, metavar="FILE", help=what)
    args = parser.parse_args(argv, namespace=FormatFlags())
    args.formats = {name: path for name in FORMATS if (path := getattr(args, f"{name}_out")) is not None}
    if not args.formats:
        raise UsageError(f"export.py: nothing to write; give {', '.join(f'--{name}-out FILE' for name in FORMATS)}")
    return args


def _partial_flags(argv: Sequence[str]) -> PartialFlags:
    about = "Write the first layers of a network, as darknet partial."
    parser = cli.Parser(prog="export.py partial", description=about)
    _add_source_flags(parser)
    parser.add_argument("--layers", type=cli.positive_int, required=True, help="how many, such as 137 for yolov4")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as yolov4.conv.137")
    return parser.parse_args(argv, namespace=PartialFlags())


def _anchor_flags(argv: Sequence[str]) -> AnchorFlags:
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
    args = parser.parse_args(argv, namespace=AnchorFlags())
    if args.out is not None and args.cfg is None:
        raise UsageError("export.py anchors: --out writes a cfg; give the --cfg it is to be made of")
    return args


def _add_source_flags(parser: cli.Parser) -> None:
    """--cfg --weights --debug."""
    parser.add_argument("--cfg", help="a Darknet cfg: a path, or a name looked up in cfg/ (default: that of the .pt)")
    parser.add_argument("--weights", required=True, help="Darknet .weights, or a .pt of train.py")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


_COMMANDS: dict[str, Callable[[Sequence[str]], ExportFlags]] = {
    "partial": _partial_flags,
    "anchors": _anchor_flags,
}
