"""The commands of export.py, from flags to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export.anchors import fit_from_flags
from export.darknet import export_backbone, export_weights
from export.flags import FormatFlags, PartialFlags, parse_export_flags
from models import describe_network, load_network
from models.darknet import Darknet

# For each of ``FORMATS`` what writes the network (not fused, float32, on the CPU) with its class names, where they are
# known, and returns the files it made.
Writer = Callable[[Darknet, Path, Sequence[str] | None], list[Path]]
WRITERS: dict[str, Writer] = {"weights": export_weights}


def main(argv: Sequence[str]) -> None:
    """Run the command that ``argv`` names first, or export a network."""
    args = parse_export_flags(argv)
    COMMANDS[args.command](args)


def export(args: FormatFlags) -> None:
    """Write one network in every format asked for."""
    config, names = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    for name, path in args.formats.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(*WRITERS[name](network, path, names), sep="\n")


def partial(args: PartialFlags) -> None:
    """Write a backbone: the first layers of a network, to start another one with."""
    config, _ = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    export_backbone(network, args.out, args.layers)
    print(args.out)


COMMANDS: dict[str, Callable[[Any], None]] = {  # each takes the flags of its own kind
    "export": export,
    "partial": partial,
    "anchors": fit_from_flags,
}
