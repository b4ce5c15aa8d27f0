"""Hand a network to other programs.

python export.py --weights best.pt --weights-out best.weights                        for Darknet and OpenCV
python export.py partial --cfg yolov4.cfg --weights yolov4.weights --layers 137 --out yolov4.conv.137
python export.py anchors --data my.data --cfg yolov4.cfg --out my.cfg               a cfg whose anchors fit your boxes
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be written is refused before the imports below: torch takes seconds
    from models.preview import preview_export
    from utils import cli

    cli.attempt(preview_export)

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.formats.dataset import load_dataset
from models import describe_network, load_network
from models.anchors import anchors_of, count_anchors, share_out, with_anchors
from models.darknet import Darknet
from models.export import export_backbone, export_weights, write_text
from utils import cli
from utils.anchor_plot import plot_anchors
from utils.anchors import anchor_lines, box_sizes, class_counts, fit_anchors
from utils.cfg import format_cfg, load_cfg, with_size
from utils.export_flags import ANCHORS, parse_export_flags

# For each of ``FORMATS`` what writes the network (not fused, float32, on the CPU) with its class names, where they are
# known, and returns the files it made.
Writer = Callable[[Darknet, Path, Sequence[str] | None], list[Path]]
WRITERS: dict[str, Writer] = {"weights": export_weights}

ANCHOR_SIZE = (416, 416)  # of the input to fit anchors for where no cfg says it


def main(argv: Sequence[str]) -> None:
    """Run the command that ``argv`` names first, or export a network."""
    args = parse_export_flags(argv)
    COMMANDS[args.command](args)


def export(args: argparse.Namespace) -> None:
    """Write one network in every format asked for."""
    config, names = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    for name, path in args.formats.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(*WRITERS[name](network, path, names), sep="\n")


def partial(args: argparse.Namespace) -> None:
    """Write a backbone: the first layers of a network, to start another one with."""
    config, _ = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    export_backbone(network, args.out, args.layers)
    print(args.out)


def anchors(args: argparse.Namespace) -> None:
    """Fit anchors to the boxes of a data set; with a cfg, compare them with its own and write it anew."""
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


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"export": export, "partial": partial, "anchors": anchors}

if __name__ == "__main__":
    cli.run(main)
