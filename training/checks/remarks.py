"""The findings that cost no time, printed before every training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.splits import Splits
from training.checks.anchors import anchor_findings
from training.checks.duplicates import same_files, twin_findings
from training.checks.findings import Finding, report
from training.checks.labels import box_findings, class_findings, name_findings
from training.checks.schedule import schedule_findings
from training.flags import TrainFlags
from training.schedule.regime import Regime, is_deep
from utils.anchors import box_sizes
from utils.cfg import Config, load_cfg
from utils.cfg.classifier import is_classifier
from utils.structures import ImageRecord

SAMPLED = 4000  # records whose boxes are looked at


def remark(args: TrainFlags, config: Config, regime: Regime, splits: Splits) -> None:
    """Before a training: print the few findings that cost no time.

    Args:
        config, regime: as it will be trained.
        splits: as the scan left them.
    """
    train_set, val_set = splits
    detector = not is_classifier(config)
    findings = [*name_findings(train_set.names, train_set.source)]
    findings += class_findings(train_set, val_set, things="boxes" if detector else "images")
    findings += twin_findings(same_files(train_set.records, val_set.records), len(val_set))
    if detector:
        findings += rate_findings(args, config, regime, load_cfg(args.cfg))
        findings += _about_boxes(args, config, splits)
    if findings:
        print(*report(findings), "the same command with --check looks closer", sep="\n")


def _about_boxes(args: TrainFlags, config: Config, splits: Splits) -> list[Finding]:
    """Boxes of the validation images, and whether the anchors fit those of the training images."""
    boxes = list(box_findings(splits.val))
    records = splits.train.records[:: max(1, len(splits.train) // SAMPLED)]
    if not boxes and has_objects(records):
        boxes += anchor_findings(config, sizes_of(records, config), fix=anchor_fix(args))
    return boxes


def rate_findings(args: TrainFlags, config: Config, regime: Regime, original: Config) -> list[Finding]:
    """What is wrong with the schedule of ``config``, made of that of ``original``."""
    adam = regime.optimizer == "adamw" or (config.net.adam and regime.optimizer == "cfg")
    scaled = bool(args.nominal_batch) or regime.by_depth
    return [
        *schedule_findings(config.net, original.net, adam=adam, scaled=scaled, cbn=args.cbn, deep=is_deep(config)),
    ]


def has_objects(records: Sequence[ImageRecord]) -> bool:
    """Whether there is something to learn: a box that is no crowd."""
    return any(not record.crowd.all() for record in records)


def sizes_of(records: Sequence[ImageRecord], config: Config) -> np.ndarray:
    """Width and height of all boxes in the network's input, (N, 2)."""
    return box_sizes(records, (config.net.height, config.net.width), letterbox=config.net.letter_box)


def anchor_fix(args: TrainFlags) -> str:
    """The command that fits anchors to the data of a training."""
    size = f" --size {args.size[0]}x{args.size[1]}" if args.size else ""
    return f"python export.py anchors --data {args.data} --cfg {args.cfg}{size} --out fitted.cfg, then --cfg fitted.cfg"
