"""The flags of eval.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from evaluation.coco import BACKENDS, MAX_DETECTIONS
from evaluation.darknet_map import AREA, CONF_THRESHOLD, IOU_THRESHOLD, POINTS
from evaluation.protocols import PROTOCOLS
from models.preview import check_network
from utils import cli
from utils.errors import UsageError
from utils.structures import Size


class EvalFlags(cli.Flags):
    """The flags of eval.py, what ``--protocol`` decides filled in."""

    # network
    cfg: str | None
    weights: str | None
    names: str | None
    size: Size | None
    letterbox: bool | None
    # data
    data: str
    split: Literal["train", "val"]
    batch: int
    # measure
    score_threshold: float
    nms_threshold: float
    protocol: str
    max_detections: int | None
    points: int
    iou_threshold: float
    conf_threshold: float
    backend: str
    # output
    json: Path | None
    save_results: Path | None
    save_voc: Path | None
    plots: Path | None
    results: Path | None
    # machine
    device: str
    precision: str
    workers: int
    debug: bool
    compile: bool


_ONLY_WITH: dict[str, tuple[str, ...]] = {"backend": ("coco",), "plots": ("coco",)}
_ONLY_WITH |= {"points": ("darknet",), "conf_threshold": ("darknet",)}
_ONLY_WITH |= {"iou_threshold": ("darknet", "recall"), "save_results": ("coco", "darknet")}
_ONLY_WITH |= {"save_voc": ("coco", "darknet")}
BOXES_ONLY = ("letterbox", "save_results", "save_voc", "plots")  # what a classifier cannot be asked


def parse_eval_flags(argv: Sequence[str]) -> EvalFlags:
    """Flags of eval.py; what the protocol decides is filled in.

    Raises:
        UsageError: unknown, missing or contradicting flags.
    """
    parser = cli.Parser(prog="eval.py", description="Measure a network on a data set, as COCO or Darknet does.")
    cli.add_network_flags(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="a .data or .yaml file, a COCO folder or annotation json")
    data.add_argument("--split", choices=("train", "val"), default="val", help="(default %(default)s)")
    data.add_argument("--batch", type=cli.positive_int, default=8, help="images at a time (default %(default)s)")
    _add_measure_flags(parser)
    _add_output_flags(parser)
    cli.add_device_flags(parser)
    cli.add_compile_flag(parser)
    args = parser.parse_args(argv, namespace=EvalFlags())
    _check(args)
    return _filled(args)


def preview_evaluation(argv: Sequence[str]) -> None:
    """What eval.py is to do; raises UserError where it cannot, without torch."""
    args = parse_eval_flags(argv)
    if args.results is None:
        assert args.weights is not None  # asked for by the parser
        check_network(args.cfg, args.weights, size=args.size, names=args.names)


def _add_measure_flags(parser: argparse.ArgumentParser) -> None:
    """--protocol and what goes with one or another."""
    cli.add_threshold_flags(parser, score=None, nms=None, note="default as --protocol")
    group = parser.add_argument_group("measure")
    about = "coco: AP as COCO; darknet: mAP@0.5 as `detector map`; recall: as `detector recall` (default %(default)s)"
    group.add_argument("--protocol", choices=tuple(PROTOCOLS), default="coco", help=about)
    limit = f"the best so many of an image count (default: coco {MAX_DETECTIONS}, else all)"
    group.add_argument("--max-detections", type=cli.positive_int, metavar="N", help=limit)
    points = "darknet: recalls that precision is read at; 0: area under the curve (default 0)"
    group.add_argument("--points", type=int, choices=POINTS, help=points)
    overlap = "darknet, recall: IoU a detection must exceed (default 0.5)"
    group.add_argument("--iou-threshold", type=cli.fraction, help=overlap)
    sure = "darknet: score above which precision and recall are counted (default 0.25)"
    group.add_argument("--conf-threshold", type=cli.fraction, help=sure)
    group.add_argument("--backend", choices=BACKENDS, help="coco: who counts (default faster)")


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Files to write, and the one to measure in place of a network."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as one object")
    group.add_argument(
        "--save-results", type=Path, metavar="FILE", help="write the detections in COCO's results format"
    )
    voc = "write comp4_det_test_CLASS.txt files, as `detector valid` for VOC"
    group.add_argument("--save-voc", type=Path, metavar="DIR", help=voc)
    group.add_argument("--plots", type=Path, metavar="DIR", help="draw curves, confusion matrix and the worst images")
    group.add_argument("--results", type=Path, metavar="FILE", help="measure this COCO results file, not a network")


def _check(args: EvalFlags) -> None:
    """Raise UsageError where flags are missing or contradict each other."""
    if args.results is None and args.weights is None:
        raise UsageError("eval.py: --weights missing; give a network, or --results FILE of a finished run")
    for name, protocols in _ONLY_WITH.items():
        if getattr(args, name) is not None and args.protocol not in protocols:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"eval.py: {flag} is not for --protocol {args.protocol} (only {', '.join(protocols)})")
    if args.results is None:
        return
    if args.protocol == "recall":
        raise UsageError("eval.py: --protocol recall needs a network, not --results: it looks at boxes of any class")
    unwanted = {name: getattr(args, name) for name in ("save_results", "save_voc", "plots", "cfg", "weights")}
    given = [f"--{name.replace('_', '-')}" for name, value in unwanted.items() if value is not None]
    if given:
        raise UsageError(
            f"eval.py: {', '.join(given)} with --results, which measures a file without a network; drop one of them"
        )


def _filled(args: EvalFlags) -> EvalFlags:
    """The flags with their defaults, which depend on the protocol."""
    protocol = PROTOCOLS[args.protocol]
    defaults = {
        "score_threshold": protocol.score_threshold,
        "nms_threshold": protocol.nms_threshold,
        "max_detections": protocol.max_detections,
        "points": AREA,
        "iou_threshold": IOU_THRESHOLD,
        "conf_threshold": CONF_THRESHOLD,
        "backend": BACKENDS[0],
    }
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args
