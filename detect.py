"""Find objects in images, videos, cameras and streams; draw them and write them down.

    python detect.py --cfg yolov4 --weights yolov4.weights --source street.jpg
    python detect.py --weights runs/train/cells/best.pt --source clip.mp4 --json clip.json

Reading, network and writing run at the same time, each in its own thread.
"""

from __future__ import annotations

if __name__ == "__main__":  # what cannot be run is refused before the imports below: torch takes seconds
    from models.preview import preview_detection
    from utils import cli

    cli.attempt(preview_detection)

import argparse
import difflib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from inference.detection import Detector
from inference.drawn import image_files, refuse_source, video_file, window
from inference.files import Add, Stems, crops, csv_report, file_name, json_report, yolo_labels
from inference.flags import parse_detect_flags
from inference.frames import Frame, ImageFiles, VideoFile
from inference.live import LiveStream
from inference.pipeline import background
from inference.sources import Source, open_sources
from models import describe_network, load_network
from utils.cfg import Config, with_size
from utils.cfg.classifier import is_classifier
from utils.cli import run
from utils.device import select_device
from utils.errors import EnvironmentFault, InputError, UsageError
from utils.image import network_input, printable
from utils.names import check_names, default_names, read_names
from utils.run_folder import new_run_folder
from utils.signals import StopRequest
from utils.structures import Detections, Letterbox
from utils.video import VideoWriter

Prepared = tuple[Frame, np.ndarray, Letterbox]
LIVE_RATE = Fraction(25)  # nominal; the frames of a live source carry the time they came
LIVE_TICK = Fraction(1, 1000)


def main(argv: Sequence[str] | None = None) -> None:
    """Run detection as the command line says."""
    args = parse_detect_flags(argv)
    config, own_names = described(args)
    if is_classifier(config):
        import classify  # it brings what training needs, which nobody waits for here

        classify.guess_from_flags(args, config, own_names)
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


class Job:
    """One run over all sources: reading -> network -> outputs, each stage in its own thread."""

    def __init__(
        self, args: argparse.Namespace, detector: Detector, cfg: str, names: Sequence[str], stop: StopRequest
    ) -> None:
        self.args, self.detector, self.cfg, self.names = args, detector, cfg, names
        self._stop, self._quit = stop, False

    def stopping(self) -> bool:
        """Whether a signal came, or q was pressed."""
        return self._quit or self._stop.signal is not None

    def run(self, sources: Sequence[Source], folder: Path | None) -> Tally:
        """Detect in every source. One that cannot be read does not stop the others; a full disk stops all."""
        tally, stems = Tally(), Stems()
        with ExitStack() as stack:
            reports = [stack.enter_context(report) for report in self._reports()]
            for source in sources:
                if self.stopping():
                    break
                try:
                    self._run_one(source, folder, stems, reports, tally)
                except InputError as error:
                    tally.faults.append(str(error))
                except EnvironmentFault as error:
                    tally.failure = error
                    break
                tally.faults += source.faults
            if tally.frames == 0:
                tally.raise_faults()  # while the reports can still be dropped: nothing is worth keeping
        return tally

    def _run_one(self, source: Source, folder: Path | None, stems: Stems, reports: Sequence[Add], tally: Tally) -> None:
        live = isinstance(source, LiveStream)
        batch = 1 if live else self.detector.batch
        ahead = 1 if live else max(2, batch)  # a live source must not lag, large frames must not fill the memory
        results = background(self._detect(background(self._prepare(source), ahead), batch), ahead)
        progress = {
            "desc": printable(source.name),
            "total": source.length,
            "unit": "frame",
            "dynamic_ncols": True,
            "disable": None,
        }
        with closing(results), ExitStack() as stack:
            outputs = [*reports, *self._outputs(source, folder, stems, stack)]
            for frame, detections in tqdm(results, **progress):
                for add in outputs:
                    add(frame, detections)
                tally.add(detections)

    def _prepare(self, source: Source) -> Iterator[Prepared]:
        for frame in source:
            if self.stopping():
                return
            yield frame, *network_input(frame.image, self.detector.network.size, letterbox=self.detector.letterbox)

    def _detect(self, prepared: Iterator[Prepared], batch: int) -> Iterator[tuple[Frame, Detections]]:
        with closing(prepared):
            while group := list(islice(prepared, batch)):
                frames, inputs, letterboxes = zip(*group, strict=True)
                yield from zip(frames, self.detector.detect(inputs, letterboxes), strict=True)

    def _reports(self) -> Iterator[AbstractContextManager[Add]]:
        """The files that cover all sources."""
        if self.args.json:
            yield json_report(self.args.json, self.cfg, self.names)
        if self.args.csv:
            yield csv_report(self.args.csv, self.names)

    def _outputs(self, source: Source, folder: Path | None, stems: Stems, stack: ExitStack) -> Iterator[Add]:
        """What is written for each frame of one source."""
        images = isinstance(source, ImageFiles)
        stem_of = stems.plain if images else stems.numbered
        if folder is not None and self.args.save_txt:
            yield yolo_labels(folder / "labels", stem_of)
        if folder is not None and self.args.save_crops:
            yield crops(folder / "crops", stem_of, self.names)
        if folder is not None and not self.args.no_save:
            if images:
                yield image_files(folder, stem_of, self.names)
            else:
                yield stack.enter_context(video_file(self._writer(source, folder, stems), self.names))
        if self.args.view:
            yield stack.enter_context(window(source.name, self.names, wait=images, quit_=self._end))

    def _writer(self, source: VideoFile | LiveStream, folder: Path, stems: Stems) -> VideoWriter:
        if isinstance(source, LiveStream):
            return VideoWriter(folder / "live.mp4", LIVE_RATE, time_base=LIVE_TICK)
        target = folder / f"{stems(source.path)}.mp4"
        refuse_source(target, source.path)
        info = source.info
        return VideoWriter(target, info.rate, time_base=info.time_base, pixel_aspect=info.pixel_aspect)

    def _end(self) -> None:
        self._quit = True


def described(args: argparse.Namespace) -> tuple[Config, Sequence[str] | None]:
    """The cfg for the input size, and the names of the classes where the weights bring them."""
    config, names = describe_network(args.cfg, args.weights)
    return config if args.size is None else with_size(config, args.size), names


def load_detector(
    args: argparse.Namespace, config: Config, own_names: Sequence[str] | None
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


def output_folder(args: argparse.Namespace, sources: Sequence[Source]) -> Path | None:
    """``--out``, or a new folder named after the first source; None where nothing would go into it."""
    if args.no_save and not (args.save_txt or args.save_crops):
        return None
    if args.out is None:
        return new_run_folder(Path("runs/detect"), file_name(sources[0].name))
    args.out.mkdir(parents=True, exist_ok=True)
    return args.out


@dataclass
class Tally:
    """What was done, for the summary and the exit code."""

    frames: int = 0
    found: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    failure: EnvironmentFault | None = None
    started: float = field(default_factory=time.monotonic)

    def add(self, detections: Detections) -> None:
        """Count one frame."""
        self.frames += 1
        self.found.update(detections.labels.tolist())

    def summary(self, names: Sequence[str]) -> str:
        """One line: frames, speed, detections by class, the most frequent first."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        classes = ", ".join(f"{count} {names[label]}" for label, count in self.found.most_common())
        rate = f"{self.frames} frames in {seconds:.1f} s ({self.frames / seconds:.1f} frames/s)"
        return f"{rate}; {self.found.total()} detections{': ' if classes else ''}{classes}"

    def raise_faults(self) -> None:
        """End with the right exit code where not everything could be read."""
        if self.failure is not None:
            raise self.failure
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            raise InputError(self.faults[0] + more)


if __name__ == "__main__":
    run(main)
