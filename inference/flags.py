"""The flags of detect.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.preview import check_network
from utils import cli
from utils.errors import UsageError
from utils.structures import Size

_BOXES_ONLY = ("letterbox", "csv", "save_txt", "save_crops", "view", "classes")
_ABOUT = """Find objects in images, videos, cameras and streams; draw them and write them down.

    python detect.py --cfg yolov4 --weights yolov4.weights --source street.jpg
    python detect.py --weights runs/train/cells/best.pt --source clip.mp4 --json clip.json
"""


class DetectFlags(cli.Flags):
    """The flags of detect.py."""

    source: str
    # network
    cfg: str | None
    weights: str
    names: str | None
    size: Size | None
    letterbox: bool | None
    # detections
    score_threshold: float
    nms_threshold: float
    classes: list[str] | None
    max_detections: int | None
    # output
    out: Path | None
    json: Path | None
    csv: Path | None
    save_txt: bool
    save_crops: bool
    no_save: bool
    view: bool
    # machine
    device: str
    precision: str
    workers: int
    debug: bool
    compile: bool
    batch: int | None


def parse_detect_flags(argv: Sequence[str] | None) -> DetectFlags:
    """The command line; --help tells the rest.

    Raises:
        UsageError: unknown or missing flags.
    """
    parser = cli.Parser(prog="detect.py", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", required=True, help="image, video, folder, pattern, .txt list, camera number, or rtsp/http address"
    )
    cli.add_network_flags(parser)
    cli.add_threshold_flags(parser, score=0.25)
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by number or name")
    parser.add_argument("--max-detections", type=cli.positive_int, metavar="N", help="only the N best of a picture")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help="folder (default: a new one in runs/detect)")
    output.add_argument("--json", type=Path, metavar="FILE", help="all detections as json")
    output.add_argument("--csv", type=Path, metavar="FILE", help="all detections as a table")
    output.add_argument("--save-txt", action="store_true", help="a label file a picture: class cx cy w h score")
    output.add_argument("--save-crops", action="store_true", help="each object as a picture of its own")
    output.add_argument("--no-save", action="store_true", help="write no drawn pictures")
    output.add_argument("--view", action="store_true", help="show the pictures in a window; q ends it")
    cli.add_device_flags(parser)
    cli.add_compile_flag(parser)
    parser.add_argument("--batch", type=cli.positive_int, help="pictures at once (default: 8 on a GPU, else 1)")
    args = parser.parse_args(argv, namespace=DetectFlags())
    if args.weights is None:
        raise UsageError("detect.py needs --weights: a Darknet .weights file (with its --cfg), or a .pt of train.py")
    return args


def preview_detection(argv: Sequence[str]) -> None:
    """Refuse what detect.py could not do; see `models.preview`.

    Raises:
        UserError: flags, cfg or weights that do not fit.
    """
    args = parse_detect_flags(argv)
    check_network(args.cfg, args.weights, size=args.size, names=args.names)


def refuse_box_flags(args: DetectFlags) -> None:
    """Refuse flags that a classifier does not know.

    Raises:
        UsageError: with those that were given.
    """
    cli.refuse(args, _BOXES_ONLY, cli.ABOUT_BOXES)
