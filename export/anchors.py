"""Anchors that fit a data set: in numbers, in a cfg and as a picture."""

from __future__ import annotations

import numpy as np

from data.formats.dataset import load_dataset
from export.flags import ANCHORS, AnchorFlags
from models.anchors import anchors_of, count_anchors, share_out, with_anchors
from utils.anchor_plot import plot_anchors
from utils.anchors import anchor_lines, box_sizes, fit_anchors
from utils.atomic import write_text
from utils.cfg import format_cfg, load_cfg, with_size
from utils.structures import class_counts

ANCHOR_SIZE = (416, 416)  # of the input to fit anchors for where no cfg says it


def fit_from_flags(args: AnchorFlags) -> None:
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
        assert config is not None  # --out goes with --cfg
        write_text(args.out, format_cfg(with_anchors(config, fitted)))
        print(args.out)
    if args.plot is not None:
        plot_anchors(wh, fitted, size, args.plot, heads=heads, before=before)
        print(args.plot)
