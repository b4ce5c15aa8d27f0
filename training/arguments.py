"""What train.py can be told: its command line, and the type of what comes of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

from training.recipes import RECIPES
from utils import cli
from utils.cli import Flags
from utils.structures import Size

AUTO, _BACKBONE = "auto", "backbone"
CHECK_SECONDS = 20  # of learning, unless --check says otherwise
PRUNERS = ("median", "halving", "none")


class TrainFlags(Flags):
    """The flags of train.py as `training.flags.parse_train_flags` leaves them, recipes applied.

    None stands for a choice that is the cfg's, the data's or `training.schedule.regime`'s.
    """

    # network
    cfg: str
    weights: str | None
    names: str | None
    size: Size | None
    letterbox: bool | None
    activation: str | None
    # what to do, and where
    data: str | None
    out: str | None
    resume: Path | None
    check: int | None
    # length
    epochs: int | None
    iterations: int | None
    eval_interval: int | None
    save_interval: int | None
    patience: int | None
    best_by: str | None
    warm_up: float | None
    # training
    recipe: str
    loss: str
    optimizer: str | None
    nominal_batch: int
    batch: int | None
    fit_memory: bool  # --batch auto
    subdivisions: int | None
    set: dict[str, str]
    freeze: int | str
    class_weights: str | None
    clip_gradient: float | None
    precise_bn: int | None
    on_divergence: str
    seed: int
    ema: str
    # regularisation
    sat: float | None
    cbn: bool
    dropblock: float
    dropblock_side: int
    # images
    cache: Literal["memory", "disk"] | None
    mosaic: float | None
    mixup: float | None
    copy_paste: float
    close_mosaic: float
    close_jitter: float
    flip_vertical: bool
    scale: float
    translate: float
    shear: float
    photometric: str
    scan: bool
    # machine
    device: str
    precision: str
    workers: int
    debug: bool
    compile: bool
    # several processes
    sync_bn: bool
    rank_timeout: int
    # search
    tune: int
    tune_space: str | None
    tune_pruner: str


def make_parser() -> argparse.ArgumentParser:
    """The parser of train.py's command line."""
    parser = cli.Parser(prog="train.py", description="Train a Darknet network with PyTorch.")
    cli.add_network_flags(parser)
    parser.add_argument(
        "--activation", help="replace the activation of every batch-normalised convolution: mish, leaky ..."
    )
    parser.add_argument(
        "--data", help="a .data or .yaml file, or a COCO folder (default: a built-in sample, drawn once)"
    )
    parser.add_argument("--out", help="run folder (default runs/train/NAME, numbered)")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR")
    parser.add_argument(
        "--check",
        type=cli.whole_number,
        nargs="?",
        const=CHECK_SECONDS,
        metavar="SECONDS",
        help="train nothing: look for faults of data, cfg, flags and weights, and overfit 8 images for SECONDS "
        "(%(const)s; 0: not at all); --out gets a picture; exit code 3 if something serious was found, else 0",
    )
    _add_length_flags(parser)
    _add_training_flags(parser)
    _add_regularisation_flags(parser)
    _add_data_flags(parser)
    cli.add_device_flags(parser)
    parser.add_argument("--compile", action="store_true", help="let torch.compile make the network's passes faster")
    _add_process_flags(parser)
    _add_search_flags(parser)
    return parser


def _add_length_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("length")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=cli.positive_int)
    length.add_argument(
        "--iterations", type=cli.positive_int, help="optimiser steps (default: the cfg's, less for small data)"
    )
    group.add_argument(
        "--eval-interval", type=cli.whole_number, metavar="N", help="evaluate every N iterations (0: at the end)"
    )
    group.add_argument(
        "--save-interval", type=cli.positive_int, metavar="N", help="save every N iterations (default: 5 minutes)"
    )
    group.add_argument(
        "--patience",
        type=cli.positive_int,
        metavar="N",
        help="early stopping, after N evaluations without a better one",
    )
    group.add_argument(
        "--best-by", choices=("ap50", "ap"), help="what decides which evaluation is the best (default ap50)"
    )
    group.add_argument(
        "--warm-up", type=cli.fraction, metavar="SHARE", help="of the iterations (default .04, 100 iterations or more)"
    )


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        default="auto",
        help="defaults of all that follows, see docs/training.md (default %(default)s; darknet: to its letter)",
    )
    group.add_argument("--loss", choices=("darknet", "scaled", "simota"), help="which predictions learn what")
    _add_step_flags(group)
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any [net] key, e.g. learning_rate=0.001, or yolo.KEY=VALUE for every [yolo]",
    )
    group.add_argument(
        "--freeze", type=_layers, default=0, metavar="N|backbone", help="keep the first N layers as they are"
    )
    group.add_argument(
        "--class-weights",
        metavar="auto|none|A,B,..|FILE",
        help="how much each class counts; auto: rare ones more (default: the cfg's counters_per_class)",
    )
    _add_safety_flags(group)
    group.add_argument("--seed", type=cli.whole_number, default=0)
    group.add_argument(
        "--ema",
        choices=("modern", "darknet", "off"),
        default="modern",
        help="the average of the weights that is evaluated and saved (darknet: as [net] ema_alpha says)",
    )


def _add_step_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--optimizer",
        choices=("cfg", "nesterov", "adamw"),
        help="cfg: SGD with momentum, or Adam with adam=1 (default: cfg; deep networks on few images: adamw)",
    )
    group.add_argument(
        "--nominal-batch",
        type=cli.whole_number,
        metavar="N",
        help="learning_rate is meant for batches of N images and scaled to those of the run (0: is not scaled)",
    )
    group.add_argument(
        "--batch",
        type=_batch,
        metavar="N|auto",
        help="images for one optimiser step (default: the cfg's); auto: that, in the fewest --subdivisions that fit",
    )
    group.add_argument(
        "--subdivisions",
        type=cli.positive_int,
        help="gradient accumulation: parts a batch is computed in, to save memory",
    )


def _add_safety_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--clip-gradient", type=cli.number, metavar="NORM", help="largest gradient norm (0: any)")
    group.add_argument(
        "--precise-bn",
        type=cli.whole_number,
        metavar="N",
        help="before evaluations measure batch norms on N images (0: running averages; default: 200 where deep)",
    )
    group.add_argument(
        "--on-divergence",
        choices=("restart", "stop"),
        default="restart",
        help="restart: once more from the last checkpoint with half the learning rate (default %(default)s)",
    )


def _add_regularisation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("YOLOv4's regularisation")
    group.add_argument(
        "--sat",
        type=float,
        metavar="LR",
        help="self-adversarial training, for example 1 ([net] adversarial_lr)",
    )
    group.add_argument(
        "--cbn", action="store_true", help="batch statistics gather over the subdivisions of a step (batch_normalize=2)"
    )
    group.add_argument(
        "--dropblock", type=cli.fraction, default=0.0, metavar="P", help="drop blocks before each head, for example .1"
    )
    group.add_argument(
        "--dropblock-side", type=cli.positive_int, default=7, metavar="N", help="cells of a block (default %(default)s)"
    )


def _add_process_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes, started by torchrun (docs/training.md)")
    group.add_argument(
        "--sync-bn", action="store_true", help="batch norm sees the mini-batches of all processes as one"
    )
    group.add_argument(
        "--rank-timeout",
        type=cli.positive_int,
        default=120,
        metavar="SECONDS",
        help="wait so long for another process before giving up (default %(default)s)",
    )


def _add_search_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search for good values (docs/training.md; wants Optuna)")
    group.add_argument(
        "--tune", type=cli.whole_number, default=0, metavar="N", help="N short trainings instead of one, below --out"
    )
    group.add_argument(
        "--tune-space", metavar="NAMES", help="what to try, for example optimiser,mosaic,box=0.05..0.5 (default: all)"
    )
    group.add_argument(
        "--tune-pruner", choices=PRUNERS, default=PRUNERS[0], help="how hopeless trials end early (default %(default)s)"
    )


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images")
    group.add_argument("--cache", choices=("memory", "disk"), help="keep decoded images")
    group.add_argument(
        "--mosaic", type=cli.fraction, help="share of mosaics (default: one half where the cfg says mosaic=1)"
    )
    group.add_argument("--mixup", type=cli.fraction, help="share of images that are the mean of two")
    group.add_argument(
        "--copy-paste", type=cli.fraction, metavar="SHARE", help="share of images that get objects of another"
    )
    group.add_argument(
        "--close-mosaic", type=cli.fraction, metavar="SHARE", help="last part without these three (default .1)"
    )
    group.add_argument(
        "--close-jitter", type=cli.fraction, metavar="SHARE", help="last part with whole images, flipped but not moved"
    )
    group.add_argument(
        "--flip-vertical",
        action="store_true",
        help="turn half of the images upside down, where that is no other picture: microscopes, satellites",
    )
    group.add_argument("--scale", type=cli.fraction, metavar="S", help="enlarge by 1 - S to 1 + S")
    group.add_argument("--translate", type=cli.fraction, metavar="T", help="move by up to T of the side")
    group.add_argument("--shear", type=_degrees, metavar="DEGREES", help="slant by up to so many degrees, either way")
    group.add_argument(
        "--photometric", metavar="default|none|FILE", default="none", help="extra colour augmentation: albumentations"
    )
    group.add_argument("--no-scan", dest="scan", action="store_false", help="do not check the images before training")


def _batch(text: str) -> int | str:
    """A number of images, or ``auto``."""
    return AUTO if text == AUTO else cli.positive_int(text)


def _layers(text: str) -> int | str:
    """A number of layers, or ``backbone``."""
    return text if text == _BACKBONE else cli.whole_number(text)


def _degrees(text: str) -> float:
    """An angle from 0 to 60."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not an angle from 0 to 60 degrees")
    return value
