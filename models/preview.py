"""What can be refused before torch is imported: flags, a cfg that cannot be built, a .weights file of another length.

Importing torch takes seconds and 600 MB, a look at cfg and file sizes a tenth of one. So a script that is started as a
program begins with one of these functions. All they refuse would be refused later on, too, by the same checks and in
the same words; what cannot be known yet, as a checkpoint's cfg or the classes of a data set, is left to the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from evaluation.flags import parse_eval_flags
from inference.flags import parse_detect_flags
from models import describe_network
from models.graph import plan
from models.weights_file import check_length, layer_lengths, num_floats
from training.cfg import cfg_of_flags
from training.flags import parse_train_flags
from utils.cfg import Config, load_cfg, with_classes, with_size
from utils.cfg.heads import Region, Yolo
from utils.checkpoint_archive import check_archive
from utils.errors import CfgError
from utils.export_flags import parse_export_flags
from utils.names import read_names
from utils.structures import Size


def preview_training(argv: Sequence[str]) -> None:
    """What train.py is to do; each of these functions raises UserError where it cannot."""
    args = parse_train_flags(argv)
    if args.resume is not None:
        if not args.tune:
            check_archive(args.resume / "last.pt", contents=False)
        return
    if args.names is not None:
        read_names(args.names)
    config = cfg_of_flags(args)
    plan(_with_fitting_filters(config))
    if args.weights is not None and args.check is None:  # to a check weights that do not fit are a finding
        _check_pretrained(Path(args.weights), config, load_cfg(args.cfg))


def preview_evaluation(argv: Sequence[str]) -> None:
    """What eval.py is to do."""
    args = parse_eval_flags(argv)
    if args.results is None:
        _check_network(args.cfg, args.weights, size=args.size, names=args.names)


def preview_detection(argv: Sequence[str]) -> None:
    """What detect.py is to do."""
    args = parse_detect_flags(argv)
    _check_network(args.cfg, args.weights, size=args.size, names=args.names)


def preview_export(argv: Sequence[str]) -> None:
    """What export.py is to do."""
    args = parse_export_flags(argv)
    if args.command != "anchors":
        _check_network(args.cfg, args.weights)
    elif args.cfg is not None:
        config = load_cfg(args.cfg)
        plan(config if args.size is None else with_size(config, args.size))


def _check_network(cfg: str | None, weights: str, *, size: Size | None = None, names: str | None = None) -> None:
    """Refuse what `models.load_network` would."""
    if names is not None:
        read_names(names)
    checkpoint = Path(weights).suffix == ".pt"
    if checkpoint:
        check_archive(Path(weights), contents=False)
        if cfg is None:
            return
    config = load_cfg(cfg) if checkpoint else describe_network(cfg, weights)[0]
    graph = plan(config if size is None else with_size(config, size))
    if not checkpoint:
        check_length(graph, config.source, weights)


def _with_fitting_filters(config: Config) -> Config:
    """The cfg with the filters before its heads mended, as training does for the classes of the data."""
    heads = [layer for layer in config.layers if isinstance(layer, Yolo | Region)]
    return with_classes(config, heads[0].classes) if heads else config


def _check_pretrained(path: Path, config: Config, original: Config) -> None:
    """Refuse what `training.pretrained.load_pretrained` would for whatever number of classes the data has."""
    if path.suffix == ".pt":
        check_archive(path, contents=False)
    elif not _may_begin(config, num_floats(path)):
        check_length(plan(original), original.source, path)


def _may_begin(config: Config, values: int) -> bool:
    """Whether ``values`` can be those of the first layers of a network for some number of classes, or of all of it."""
    try:
        one, two = (accumulate(layer_lengths(plan(with_classes(config, classes)))) for classes in (1, 2))
    except CfgError:  # no place for classes, or a [region] with a tree, which keeps its own
        return True
    # What a class adds before a layer's end is the same for each.
    return any(
        values == end if end == more else values >= end and (values - end) % (more - end) == 0
        for end, more in zip(one, two, strict=True)
    )
