"""Find objects in images, videos, cameras and streams; draw them and write them down.

    python detect.py --cfg yolov4 --weights yolov4.weights --source street.jpg
    python detect.py --weights runs/train/cells/best.pt --source clip.mp4 --json clip.json

Reading, network and writing run at the same time, each in its own thread.
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be run is refused before the imports below: torch takes seconds
    from inference.flags import DetectFlags, preview_detection
    from utils import cli

    cli.attempt(preview_detection)

import difflib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from inference.classification import guess_from_flags
from inference.detection import Detector, Job
from inference.flags import parse_detect_flags
from inference.sources import Source, open_sources
from models import describe_network, load_network
from utils import cli
from utils.cfg import Config, with_size
from utils.cfg.classifier import is_classifier
from utils.device import select_device
from utils.errors import UsageError
from utils.image import printable
from utils.names import check_names, default_names, read_names
from utils.run_folder import file_name, new_run_folder
from utils.signals import StopRequest


def main(argv: Sequence[str] | None = None) -> None:
    """Run detection as the command line says."""
    args = parse_detect_flags(argv)
    config, own_names = described(args)
    if is_classifier(config):
        guess_from_flags(args, config, own_names)
        return
    with StopRequest() as stop:
        job = Job(args, *load_detector(args, config, own_names), stop)
        sources = open_sources(args.source, stopping=job.stopping)
        folder = output_folder(args, sources)
        try:
            tally = job.run(sources, folder)
        finally:
            if folder is not None:
                with suppress(OSError):
                    folder.rmdir()  # succeeds on an empty one only
        print(tally.summary(job.names))
        for place in (folder, args.json, args.csv):
            if place is not None:
                print(f"written: {printable(place)}")
        if stop.signal is not None:
            raise SystemExit(stop.exit_code)
        tally.raise_faults()


def described(args: DetectFlags) -> tuple[Config, Sequence[str] | None]:
    """The cfg for the input size, and the names of the classes where the weights bring them."""
    config, names = describe_network(args.cfg, args.weights)
    return config if args.size is None else with_size(config, args.size), names


def load_detector(
    args: DetectFlags, config: Config, own_names: Sequence[str] | None
) -> tuple[Detector, str, tuple[str, ...]]:
    """The detector, the name of its cfg and the names of its classes."""
    device = select_device(args.device)
    network = load_network(config, args.weights, device, args.precision, compile=args.compile)
    if not network.heads:
        raise UsageError(
            f"{config.source}: finds no boxes (wanted a [yolo] section, or for classes a closing [softmax])"
        )
    names = class_names(args.names, own_names, network.num_classes, str(args.weights))
    detector = Detector(
        network=network,
        device=device,
        letterbox=network.config.net.letter_box if args.letterbox is None else args.letterbox,
        score_threshold=args.score_threshold,
        nms_threshold=args.nms_threshold,
        wanted=class_indices(args.classes, names),
        most=args.max_detections,
        batch=args.batch or (8 if device.type == "cuda" else 1),
    )
    return detector, printable(args.cfg or args.weights), names


def class_names(file: str | None, own: Sequence[str] | None, classes: int, source: str) -> tuple[str, ...]:
    """Names from a file, else the checkpoint's ``own``, else the usual ones for that many classes."""
    if file is not None:
        return read_names(file, classes=classes)
    if own:
        check_names(own, classes, source=source)
        return tuple(own)
    return default_names(classes)


def class_indices(wanted: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...] | None:
    """``--classes`` as indices; each is a number or a name."""
    if wanted is None:
        return None
    indices = []
    for text in wanted:
        if text in names:
            indices.append(list(names).index(text))
        elif text.isdecimal() and int(text) < len(names):
            indices.append(int(text))
        else:
            near = difflib.get_close_matches(text, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"wanted 0 to {len(names) - 1}, or a name"
            raise UsageError(f"--classes {text}: no such class; {hint}")
    return tuple(indices)


def output_folder(args: DetectFlags, sources: Sequence[Source]) -> Path | None:
    """``--out``, or a new folder named after the first source; None where nothing would go into it."""
    if args.no_save and not (args.save_txt or args.save_crops):
        return None
    if args.out is None:
        return new_run_folder(Path("runs/detect"), file_name(sources[0].name))
    args.out.mkdir(parents=True, exist_ok=True)
    return args.out


if __name__ == "__main__":
    cli.run(main)
