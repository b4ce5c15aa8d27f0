"""The flags of detect.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, add_compile_flag, add_device_flags, add_network_flags, add_threshold_flags, positive_int
from utils.errors import UsageError

_ABOUT = """Find objects in images, videos, cameras and streams; draw them and write them down.

    python detect.py --cfg yolov4 --weights yolov4.weights --source street.jpg
    python detect.py --weights runs/train/cells/best.pt --source clip.mp4 --json clip.json
"""


def parse_detect_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; --help tells the rest.

    Raises:
        UsageError: unknown or missing flags.
    """
    parser = Parser(prog="detect.py", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--source", required=True, help="image, video, folder, pattern, .txt list, camera number, or rtsp/http address"
    )
    add_network_flags(parser)
    add_threshold_flags(parser, score=0.25)
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by number or name")
    parser.add_argument("--max-detections", type=positive_int, metavar="N", help="only the N best of a picture")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, metavar="DIR", help="folder (default: a new one in runs/detect)")
    output.add_argument("--json", type=Path, metavar="FILE", help="all detections as json")
    output.add_argument("--csv", type=Path, metavar="FILE", help="all detections as a table")
    output.add_argument("--save-txt", action="store_true", help="a label file a picture: class cx cy w h score")
    output.add_argument("--save-crops", action="store_true", help="each object as a picture of its own")
    output.add_argument("--no-save", action="store_true", help="write no drawn pictures")
    output.add_argument("--view", action="store_true", help="show the pictures in a window; q ends it")
    add_device_flags(parser)
    add_compile_flag(parser)
    parser.add_argument("--batch", type=positive_int, help="pictures at once (default: 8 on a GPU, else 1)")
    args = parser.parse_args(argv)
    if args.weights is None:
        raise UsageError("detect.py needs --weights: a Darknet .weights file (with its --cfg), or a .pt of train.py")
    return args
