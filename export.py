"""Hand a network to other programs.

python export.py --weights best.pt --weights-out best.weights                        for Darknet and OpenCV
python export.py partial --cfg yolov4.cfg --weights yolov4.weights --layers 137 --out yolov4.conv.137
python export.py anchors --data my.data --cfg yolov4.cfg --out my.cfg               a cfg whose anchors fit your boxes
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.dataset import load_dataset
from models import describe_network, load_network
from models.anchors import anchors_of, count_anchors, share_out, with_anchors
from models.darknet import Darknet
from models.export import export_backbone, export_weights, write_text
from utils import cli
from utils.anchor_plot import plot_anchors
from utils.anchors import anchor_lines, box_sizes, class_counts, fit_anchors
from utils.cfg import format_cfg, load_cfg, with_size
from utils.errors import UsageError

# What a network can be written as: each format is a flag --FORMAT-out FILE and a function that writes the network (not
# fused, float32, on the CPU) with its class names, where they are known, and returns the files it made.
Writer = Callable[[Darknet, Path, Sequence[str] | None], list[Path]]
FORMATS: dict[str, tuple[Writer, str]] = {
    "weights": (export_weights, "Darknet's .weights; for a .pt its cfg and names too, beside it"),
}


ANCHORS, ANCHOR_SIZE = 9, (416, 416)  # to fit where no cfg says how many, and for which input


def main(argv: Sequence[str]) -> None:
    """Run the command that ``argv`` names first, or export a network."""
    if argv and argv[0] in COMMANDS:
        COMMANDS[argv[0]](argv[1:])
    else:
        export(argv)


def export(argv: Sequence[str]) -> None:
    """Write one network in every format asked for.

    Raises:
        UsageError: no format is.
    """
    parser = cli.Parser(prog="export.py", description=f"Write a network for other programs. Commands: {_COMMANDS}.")
    add_source_flags(parser)
    for name, (_, about) in FORMATS.items():
        parser.add_argument(f"--{name}-out", type=Path, metavar="FILE", help=about)
    args = parser.parse_args(argv)
    wanted = {name: path for name in FORMATS if (path := getattr(args, f"{name}_out")) is not None}
    if not wanted:
        raise UsageError(f"export.py: nothing to write; give {', '.join(f'--{name}-out FILE' for name in FORMATS)}")
    config, names = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    for name, path in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(*FORMATS[name][0](network, path, names), sep="\n")


def partial(argv: Sequence[str]) -> None:
    """Write a backbone: the first layers of a network, to start another one with."""
    parser = cli.Parser(
        prog="export.py partial", description="Write the first layers of a network, as darknet partial."
    )
    add_source_flags(parser)
    parser.add_argument("--layers", type=cli.positive_int, required=True, help="how many, such as 137 for yolov4")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as yolov4.conv.137")
    args = parser.parse_args(argv)
    config, _ = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    export_backbone(network, args.out, args.layers)
    print(args.out)


def anchors(argv: Sequence[str]) -> None:
    """Fit anchors to the boxes of a data set; with a cfg, compare them with its own and write it anew."""
    args = parse_anchor_flags(argv)
    config = None if args.cfg is None else load_cfg(args.cfg)
    if config is not None and args.size is not None:
        config = with_size(config, args.size)
    size = args.size or ANCHOR_SIZE if config is None else (config.net.height, config.net.width)
    letterbox = (config is not None and config.net.letter_box) if args.letterbox is None else args.letterbox
    before = None if config is None else anchors_of(config)
    dataset = load_dataset(args.data, "train")
    wh = box_sizes(dataset.records, size, letterbox=letterbox)
    number = args.num or (ANCHORS if config is None else count_anchors(config))
    heads = () if config is None else tuple(share_out(config, number).values())
    fitted = fit_anchors(wh, number, np.random.default_rng(args.seed))
    print(f"{len(wh):,} boxes, {'letterboxed' if letterbox else 'stretched'} to width {size[1]}, height {size[0]}")
    print(*anchor_lines(wh, fitted, before), sep="\n")
    print("counters_per_class =", ", ".join(map(str, class_counts(dataset.records, len(dataset.names)))))
    for path in filter(None, (args.out, args.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if args.out is not None:
        write_text(args.out, format_cfg(with_anchors(config, fitted)))
        print(args.out)
    if args.plot is not None:
        plot_anchors(wh, fitted, size, args.plot, heads=heads, before=before)
        print(args.plot)


def parse_anchor_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Flags of the command ``anchors``.

    Raises:
        UsageError: a cfg to write, and none to take it from.
    """
    parser = cli.Parser(prog="export.py anchors", description="Fit anchors to your boxes, as darknet calc_anchors.")
    parser.add_argument("--data", required=True, help="a .data or .yaml file, a COCO folder or annotation json")
    parser.add_argument("--num", type=cli.positive_int, help=f"how many (default: as the cfg, else {ANCHORS})")
    parser.add_argument("--size", type=cli.parse_size, help="of the input (default: the cfg's, else 416)")
    box = parser.add_mutually_exclusive_group()
    box.add_argument("--letterbox", dest="letterbox", action="store_true", default=None, help="keep the aspect ratio")
    box.add_argument("--stretch", dest="letterbox", action="store_false", help="fill the input (default: as the cfg)")
    parser.add_argument("--cfg", help="a Darknet cfg: a path, or a name looked up in cfg/")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the cfg with these anchors")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw boxes and anchors, a .png")
    parser.add_argument("--seed", type=cli.whole_number, default=0, help="other starts (default %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_args(argv)
    if args.out is not None and args.cfg is None:
        raise UsageError("export.py anchors: --out writes a cfg; give the --cfg it is to be made of")
    return args


def add_source_flags(parser: cli.Parser) -> None:
    """--cfg --weights --debug."""
    parser.add_argument("--cfg", help="a Darknet cfg: a path, or a name looked up in cfg/ (default: that of the .pt)")
    parser.add_argument("--weights", required=True, help="Darknet .weights, or a .pt of train.py")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"partial": partial, "anchors": anchors}
_COMMANDS = ", ".join(COMMANDS)

if __name__ == "__main__":
    cli.run(main)
