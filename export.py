"""Hand a network to other programs.

python export.py --weights best.pt --weights-out best.weights                        for Darknet and OpenCV
python export.py partial --cfg yolov4.cfg --weights yolov4.weights --layers 137 --out yolov4.conv.137
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from models import describe_network, load_network
from models.darknet import Darknet
from models.export import export_backbone, export_weights
from utils import cli
from utils.errors import UsageError

# What a network can be written as: each format is a flag --FORMAT-out FILE and a function that writes the network (not
# fused, float32, on the CPU) with its class names, where they are known, and returns the files it made.
Writer = Callable[[Darknet, Path, Sequence[str] | None], list[Path]]
FORMATS: dict[str, tuple[Writer, str]] = {
    "weights": (export_weights, "Darknet's .weights; for a .pt its cfg and names too, beside it"),
}


def main(argv: Sequence[str]) -> None:
    """Run the command that ``argv`` names first, or export a network."""
    if argv and argv[0] in COMMANDS:
        COMMANDS[argv[0]](argv[1:])
    else:
        export(argv)


def export(argv: Sequence[str]) -> None:
    """Write one network in every format asked for.

    Raises:
        UsageError: no format is.
    """
    parser = cli.Parser(prog="export.py", description=f"Write a network for other programs. Commands: {_COMMANDS}.")
    add_source_flags(parser)
    for name, (_, about) in FORMATS.items():
        parser.add_argument(f"--{name}-out", type=Path, metavar="FILE", help=about)
    args = parser.parse_args(argv)
    wanted = {name: path for name in FORMATS if (path := getattr(args, f"{name}_out")) is not None}
    if not wanted:
        raise UsageError(f"export.py: nothing to write; give {', '.join(f'--{name}-out FILE' for name in FORMATS)}")
    config, names = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    for name, path in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(*FORMATS[name][0](network, path, names), sep="\n")


def partial(argv: Sequence[str]) -> None:
    """Write a backbone: the first layers of a network, to start another one with."""
    parser = cli.Parser(
        prog="export.py partial", description="Write the first layers of a network, as darknet partial."
    )
    add_source_flags(parser)
    parser.add_argument("--layers", type=cli.positive_int, required=True, help="how many, such as 137 for yolov4")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="such as yolov4.conv.137")
    args = parser.parse_args(argv)
    config, _ = describe_network(args.cfg, args.weights)
    network = load_network(config, args.weights, fuse=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    export_backbone(network, args.out, args.layers)
    print(args.out)


def add_source_flags(parser: cli.Parser) -> None:
    """--cfg --weights --debug."""
    parser.add_argument("--cfg", help="a Darknet cfg: a path, or a name looked up in cfg/ (default: that of the .pt)")
    parser.add_argument("--weights", required=True, help="Darknet .weights, or a .pt of train.py")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"partial": partial}
_COMMANDS = ", ".join(COMMANDS)

if __name__ == "__main__":
    cli.run(main)
