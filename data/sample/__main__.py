"""Draw the sample by hand.

python -m data.sample --out datasets/sample
python -m data.sample --clip clip.mp4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.sample import is_sample, make_sample
from data.sample.clip import render_clip
from utils.cli import Parser, positive_int, run, whole_number


def main(argv: Sequence[str] | None = None) -> None:
    """Draw what the flags ask for and say where it is."""
    parser = Parser(prog="python -m data.sample", description="Draw the sample data set, or a clip of such scenes.")
    parser.add_argument("--out", type=Path, help="folder of the data set (default datasets/sample, without --clip)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="draw a clip into this .mp4")
    parser.add_argument("--train", type=positive_int, default=300, help="training images (default %(default)s)")
    parser.add_argument("--val", type=positive_int, default=60, help="validation images (default %(default)s)")
    parser.add_argument("--seconds", type=positive_int, default=6, help="length of the clip (default %(default)s)")
    parser.add_argument("--seed", type=whole_number, default=0, help="other scenes (default %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args: argparse.Namespace = parser.parse_args(argv)
    if args.clip:
        print(f"clip: {render_clip(args.clip, seconds=args.seconds, seed=args.seed, progress=True)}")
    if args.out or not args.clip:
        folder = args.out or Path("datasets/sample")
        if not is_sample(folder, train=args.train, val=args.val, seed=args.seed):
            make_sample(folder, train=args.train, val=args.val, seed=args.seed)
        print(f"sample: {args.train} + {args.val} images in {folder}; python train.py --data {folder}")


if __name__ == "__main__":
    run(main)
