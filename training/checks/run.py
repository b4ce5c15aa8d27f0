"""Look for what spoils a training before it is started. train.py --check hands over to it.

python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml --check             everything, and 20 seconds of learning
python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml --check 0 --out pictures   without learning; with a picture
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.formats.dataset import Dataset
from data.loading.classification import load_labelled_splits
from data.scan import ScanReport, scan, write_bad_files
from data.training_data import find_data, load_splits
from eval import evaluate_network
from models.anchors import anchors_of
from models.darknet import Darknet
from models.losses.criterion import make_criterion
from training.cfg import adapt_classes, adapt_heads, fit_schedule, read_cfg, weigh_classes
from training.checks.anchors import anchor_findings, head_lines, head_rows
from training.checks.duplicates import pictures, repeat_findings, repeated, same_files, twin_findings, twins
from training.checks.findings import Finding, finding_of, report
from training.checks.labels import (
    balance_findings,
    box_findings,
    class_findings,
    class_lines,
    name_findings,
    scan_findings,
    text_findings,
)
from training.checks.overfit import (
    affordable_size,
    handful,
    learning_findings,
    learning_line,
    one_batch,
    overfit,
    shrink_anchors,
)
from training.checks.schedule import schedule_findings
from training.checks.weights import load_matching, match_findings, mismatch_finding
from training.class_weights import NONE
from training.pretrained import expect_background, freeze
from training.schedule.regime import Regime, is_deep
from utils.anchor_plot import plot_anchors
from utils.anchors import box_sizes
from utils.cfg import Config, load_cfg
from utils.cfg.classifier import is_classifier
from utils.cli import EXIT_INPUT
from utils.device import make_repeatable, resolve_precision
from utils.errors import InputError, UsageError
from utils.image import printable
from utils.structures import ImageRecord

HANDFUL = 8  # images learned by heart
SAMPLED = 4000  # records whose boxes are looked at before every training


class Splits(NamedTuple):
    """The two sides of a training."""

    train: Dataset
    val: Dataset


def run(args: argparse.Namespace, device: torch.device) -> int:
    """Check what ``args``, the flags of train.py, would train; return 0, or 3 where something serious was found."""
    make_repeatable(args.seed, device)
    original, config = load_cfg(args.cfg), read_cfg(args)
    detector = not is_classifier(config)
    if detector:
        args.data = find_data(args.data)
    try:
        splits = load(args, detector)
        findings = check_classes(splits, args, "boxes" if detector else "images")
        scanned, more = check_images(splits, args)
    except InputError as error:
        return conclude(unreadable(args, error))
    findings += more
    if detector:
        config = adapt_heads(config, len(splits.train.names), splits.train.source)
        config = weigh_classes(config, args.class_weights, splits.train.names, scanned.train.records)
        findings += check_boxes(splits, scanned, config, args)
    else:
        config = adapt_classes(config, len(splits.train.names), splits.train.source)
    network, more = pretrained(args, config, original)
    findings += more
    if detector:
        findings += check_schedule(args, config, original, len(scanned.train))
    if detector and args.check and has_objects(scanned.train.records):
        findings += check_learning(args, network.to(device), scanned.train)
    return conclude(findings)


def remark(args: argparse.Namespace, config: Config, regime: Regime, train_set: Dataset, val_set: Dataset) -> None:
    """Before a training: print the few findings that cost no time.

    Args:
        config, regime: as it will be trained.
        train_set, val_set: as the scan left them.
    """
    findings = [*name_findings(train_set.names, train_set.source), *class_findings(train_set, val_set)]
    findings += twin_findings(same_files(train_set.records, val_set.records), len(val_set))
    findings += rate_findings(args, config, regime, load_cfg(args.cfg))
    boxes = list(box_findings(val_set))
    records = train_set.records[:: max(1, len(train_set) // SAMPLED)]
    if not boxes and has_objects(records):
        boxes += anchor_findings(config, sizes_of(records, config), fix=anchor_fix(args))
    if findings + boxes:
        print(*report(findings + boxes), "the same command with --check looks closer", sep="\n")


def load(args: argparse.Namespace, detector: bool) -> Splits:
    """The images of both sides, as annotated."""
    loading = load_splits if detector else load_labelled_splits
    if args.data is None:
        raise UsageError("--data is needed: a folder with train/CLASS/ and val/CLASS/, or a .data file with labels=")
    return Splits(*loading(args.data, names=args.names, check=False, workers=args.workers))


def unreadable(args: argparse.Namespace, error: InputError) -> list[Finding]:
    """Why a data set could not be read: every bad line of its labels, else the error."""
    found: list[Finding] = []
    for split in ("train", "val"):
        with suppress(InputError):
            found += text_findings(Path(args.data), split)
    return found or [finding_of(error)]


def check_classes(splits: Splits, args: argparse.Namespace, things: str) -> list[Finding]:
    """Names, and how often each class comes."""
    headline(f"CLASSES of {printable(splits.train.source)}", *class_lines(*splits, things=things))
    return [
        *name_findings(splits.train.names, splits.train.source),
        *class_findings(*splits, things=things),
        *balance_findings(splits.train, things=things, weighted=args.class_weights not in (None, NONE)),
    ]


def check_images(splits: Splits, args: argparse.Namespace) -> tuple[Splits, list[Finding]]:
    """Images that do not decode, and those that come twice; the images that are left."""
    workers = max(1, args.workers)
    reports = [scan(dataset, workers=workers, progress=True, max_bad=1.0) for dataset in splits]
    headline("IMAGES", *(line for scanned in reports for line in scan_lines(scanned)))
    train, val = (pictures(one.dataset.records, workers=workers, progress=True) for one in reports)
    findings = [finding for one in reports for finding in scan_findings(one)]
    findings += [*twin_findings(twins(train, val), len(splits.val)), *repeat_findings(repeated(train))]
    if args.out and any(one.bad for one in reports):
        path = pictures_folder(args) / "bad_files.csv"
        write_bad_files(path, [file for one in reports for file in one.bad])
        print(f"  {path}")
    return Splits(*(report.dataset for report in reports)), findings


def check_boxes(splits: Splits, scanned: Splits, config: Config, args: argparse.Namespace) -> list[Finding]:
    """Boxes against their images, the anchors and the grids."""
    findings = [*box_findings(splits.train), *box_findings(splits.val)]
    if not has_objects(scanned.train.records):
        return findings
    wh = sizes_of(scanned.train.records, config)
    headline("BOXES AND ANCHORS", *head_lines(config, wh))
    if args.out:
        path = pictures_folder(args) / "anchors.png"
        plot_anchors(wh, anchors_of(config), (config.net.height, config.net.width), path, heads=head_rows(config))
        print(f"  {path}")
    if not any(finding.serious for finding in findings):  # else the sizes are not those of the objects
        findings += anchor_findings(config, wh, fix=anchor_fix(args))
    return findings


def check_schedule(args: argparse.Namespace, config: Config, original: Config, images: int) -> list[Finding]:
    """Learning rate, batch and length, as train.py would choose them."""
    print("\nSCHEDULE")
    return rate_findings(args, *fit_schedule(args, config, images), original)


def rate_findings(args: argparse.Namespace, config: Config, regime: Regime, original: Config) -> list[Finding]:
    """What is wrong with the schedule of ``config``, made of that of ``original``."""
    adam = regime.optimizer == "adamw" or (config.net.adam and regime.optimizer == "cfg")
    scaled = bool(args.nominal_batch) or regime.by_depth
    return [
        *schedule_findings(config.net, original.net, adam=adam, scaled=scaled, cbn=args.cbn, deep=is_deep(config)),
    ]


def pretrained(args: argparse.Namespace, config: Config, original: Config) -> tuple[Darknet, list[Finding]]:
    """The network with what fits of ``--weights``; of a file that does not fit ``args`` is rid."""
    network = fresh(config)
    if not args.weights:
        headline("WEIGHTS", "none given: training starts from nothing")
        return network, []
    path = Path(args.weights)
    try:
        match = load_matching(network, path, original)
    except (InputError, OSError) as error:
        args.weights = None  # the rest is checked as if none were given
        return fresh(config), [mismatch_finding(error, path)]
    headline("WEIGHTS", match.line(path))
    return network, [*match_findings(match, path, config.source)]


def fresh(config: Config) -> Darknet:
    """The network as a training starts it."""
    network = Darknet(config)
    expect_background(network)
    return network


def check_learning(args: argparse.Namespace, network: Darknet, train_set: Dataset) -> list[Finding]:
    """Learn a handful of images by heart, and look for their boxes."""
    device = next(network.parameters()).device
    dtype = resolve_precision(args.precision, device, training=True)
    dtype = torch.float32 if dtype == torch.float16 else dtype  # which would need a scaler
    network.to(memory_format=torch.channels_last).train()
    freeze(network, args.freeze)
    few, letterbox = handful(train_set, HANDFUL), network.config.net.letter_box
    size = affordable_size(network, len(few), args.check, dtype=dtype)
    shrink_anchors(network, size)
    images, targets = one_batch(few, size, letterbox=letterbox)
    images, targets = images.to(device, memory_format=torch.channels_last), targets.to(device)
    criterion = make_criterion(network, args.loss)
    learning = overfit(network, criterion, images, targets, args.check, dtype=dtype, progress=True)
    ap50 = 0.0
    if learning.finite:
        found = evaluate_network(network, few, size=size, device=device, workers=0, letterbox=letterbox, progress=False)
        ap50 = found.metrics.ap50
    headline(f"LEARNING {len(few)} images by heart at {size[1]}x{size[0]}", learning_line(learning, ap50))
    return learning_findings(learning, ap50)


def has_objects(records: Sequence[ImageRecord]) -> bool:
    """Whether there is something to learn: a box that is no crowd."""
    return any(not record.crowd.all() for record in records)


def sizes_of(records: Sequence[ImageRecord], config: Config) -> np.ndarray:
    """Width and height of all boxes in the network's input, (N, 2)."""
    return box_sizes(records, (config.net.height, config.net.width), letterbox=config.net.letter_box)


def anchor_fix(args: argparse.Namespace) -> str:
    """The command that fits anchors to the data of a training."""
    size = f" --size {args.size[0]}x{args.size[1]}" if args.size else ""
    return f"python export.py anchors --data {args.data} --cfg {args.cfg}{size} --out fitted.cfg, then --cfg fitted.cfg"


def pictures_folder(args: argparse.Namespace) -> Path:
    """The folder ``--out``, made where there is none."""
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def scan_lines(scanned: ScanReport) -> list[str]:
    """What a scan found but for the bad images, which are findings."""
    total = f"{scanned.dataset.split}: {scanned.images:,} images, {len(scanned.bad):,} of them cannot be used"
    return [total, *replace(scanned, bad=()).faults()]


def headline(title: str, *lines: str) -> None:
    """Print a section of the check."""
    print(f"\n{title}", *lines, sep="\n  ")


def conclude(findings: Sequence[Finding]) -> int:
    """Print the findings and return the exit code."""
    serious = sum(finding.serious for finding in findings)
    print(f"\nFINDINGS: serious {serious}, warnings {len(findings) - serious}", *report(findings), sep="\n")
    return EXIT_INPUT if serious else 0
