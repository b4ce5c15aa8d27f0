"""What of a training can be refused before torch is imported; `models.preview` says why."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from models.graph import plan
from models.weights_file import check_length, layer_lengths, num_floats
from training.cfg import cfg_of_flags
from training.flags import parse_train_flags
from utils.cfg import Config, load_cfg, with_classes
from utils.cfg.heads import Region, Yolo
from utils.checkpoint_archive import check_archive
from utils.errors import CfgError
from utils.names import read_names


def preview_training(argv: Sequence[str]) -> None:
    """Refuse what train.py could not do.

    Raises:
        UserError: flags, cfg or weights that do not fit.
    """
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
