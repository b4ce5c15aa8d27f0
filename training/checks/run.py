"""Look for what spoils a training before it is started. train.py --check hands over to it.

python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml --check             everything, and 20 seconds of learning
python train.py --cfg yolov4-tiny-mish.cfg --data my.yaml --check 0 --out pictures   without learning; with a picture
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from data.formats.dataset import Dataset
from data.scan import ScanReport, scan, write_bad_files
from data.splits import Splits, find_data, load_splits
from evaluation.coco import CocoMetrics
from evaluation.detection import Settings, evaluate_network
from models.anchors import anchors_of
from models.darknet import Darknet
from models.losses.criterion import make_criterion
from training.arguments import TrainFlags
from training.cfg import adapt_classes, adapt_heads, fit_schedule, read_cfg, weigh_classes
from training.checks.anchors import anchor_findings, head_lines, head_rows
from training.checks.duplicates import pictures, repeat_findings, repeated, twin_findings, twins
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
    learning_findings,
    learning_line,
    one_batch,
    overfit,
    representative_images,
    shrink_anchors,
)
from training.checks.remarks import anchor_fix, has_objects, rate_findings, sizes_of
from training.checks.weights import load_matching, match_findings, mismatch_finding
from training.class_weights import NONE
from training.pretrained import expect_background, freeze
from utils.anchor_plot import plot_anchors
from utils.cfg import Config, load_cfg
from utils.cfg.classifier import is_classifier
from utils.cli import EXIT_INPUT, with_values
from utils.device import make_repeatable, resolve_precision
from utils.distributed import World
from utils.errors import InputError, UsageError
from utils.image import printable

OVERFIT_IMAGES = 8


def check(args: TrainFlags, world: World) -> int:
    """Check what ``args``, the flags of train.py, would train; return 0, or 3 where something serious was found."""
    device = world.device(args.device)
    world.refuse("a check")
    make_repeatable(args.seed, device)
    original, config = load_cfg(args.cfg), read_cfg(args)
    detector = not is_classifier(config)
    if detector:
        args = with_values(args, data=find_data(args.data))
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
    network, fitting, more = pretrained(args, config, original)
    args = with_values(args, weights=fitting)  # the rest is checked without weights that do not fit
    findings += more
    if detector:
        findings += check_schedule(args, config, original, len(scanned.train))
    if detector and args.check and has_objects(scanned.train.records):
        findings += check_learning(args, network.to(device), scanned.train)
    return conclude(findings)


def load(args: TrainFlags, detector: bool) -> Splits:
    """The images of both sides, as annotated."""
    if args.data is None:
        raise UsageError("--data is needed: a folder with train/CLASS/ and val/CLASS/, or a .data file with labels=")
    return load_splits(args.data, names=args.names, check=False, workers=args.workers, labelled=not detector)


def unreadable(args: TrainFlags, error: InputError) -> list[Finding]:
    """Why a data set could not be read: every bad line of its labels, else the error."""
    assert args.data is not None  # what is drawn can be read
    found: list[Finding] = []
    for split in ("train", "val"):
        with suppress(InputError):
            found += text_findings(Path(args.data), split)
    return found or [finding_of(error)]


def check_classes(splits: Splits, args: TrainFlags, things: str) -> list[Finding]:
    """Names, and how often each class comes."""
    headline(f"CLASSES of {printable(splits.train.source)}", *class_lines(*splits, things=things))
    return [
        *name_findings(splits.train.names, splits.train.source),
        *class_findings(*splits, things=things),
        *balance_findings(splits.train, things=things, weighted=args.class_weights not in (None, NONE)),
    ]


def check_images(splits: Splits, args: TrainFlags) -> tuple[Splits, list[Finding]]:
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


def check_boxes(splits: Splits, scanned: Splits, config: Config, args: TrainFlags) -> list[Finding]:
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


def check_schedule(args: TrainFlags, config: Config, original: Config, images: int) -> list[Finding]:
    """Learning rate, batch and length, as train.py would choose them."""
    print("\nSCHEDULE")
    config, regime = fit_schedule(args, config, images)
    return rate_findings(args, config, regime, original)


def pretrained(args: TrainFlags, config: Config, original: Config) -> tuple[Darknet, str | None, list[Finding]]:
    """The network with what fits of ``--weights``, the file where it fits, and what there is to say."""
    network = fresh(config)
    if not args.weights:
        headline("WEIGHTS", "none given: training starts from nothing")
        return network, None, []
    path = Path(args.weights)
    try:
        match = load_matching(network, path, original)
    except (InputError, OSError) as error:
        return fresh(config), None, [mismatch_finding(error, path)]
    headline("WEIGHTS", match.line(path))
    return network, args.weights, [*match_findings(match, path, config.source)]


def fresh(config: Config) -> Darknet:
    """The network as a training starts it."""
    network = Darknet(config)
    expect_background(network)
    return network


def check_learning(args: TrainFlags, network: Darknet, train_set: Dataset) -> list[Finding]:
    """Overfit a few images, and look for their boxes."""
    assert args.check is not None
    device = next(network.parameters()).device
    dtype = resolve_precision(args.precision, device, training=True)
    dtype = torch.float32 if dtype == torch.float16 else dtype  # which would need a scaler
    network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    freeze(network, args.freeze)
    few, letterbox = representative_images(train_set, OVERFIT_IMAGES), network.config.net.letter_box
    size = affordable_size(network, len(few), args.check, dtype=dtype)
    shrink_anchors(network, size)
    images, targets = one_batch(few, size, letterbox=letterbox)
    images, targets = images.to(device, memory_format=torch.channels_last), targets.to(device)
    criterion = make_criterion(network, args.loss)
    learning = overfit(network, criterion, images, targets, args.check, dtype=dtype, progress=True)
    ap50 = 0.0
    if learning.finite:
        settings = Settings(size=size, device=device, workers=0, letterbox=letterbox)
        found = evaluate_network(network, few, settings, progress=False)
        assert isinstance(found.metrics, CocoMetrics)  # what measures unless told otherwise
        ap50 = found.metrics.ap50
    headline(f"OVERFITTING {len(few)} images at {size[1]}x{size[0]}", learning_line(learning, ap50))
    return learning_findings(learning, ap50)


def pictures_folder(args: TrainFlags) -> Path:
    """The folder ``--out``, made where there is none."""
    assert args.out is not None
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
