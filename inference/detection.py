"""From frames to what is written down about their objects, and the detector in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from inference.drawn import image_files, refuse_source, video_file, window
from inference.files import Add, Stems, crops, csv_report, json_report, yolo_labels
from inference.flags import DetectFlags
from inference.frames import Frame, ImageFiles, VideoFile
from inference.live import LiveStream
from inference.pipeline import background
from inference.sources import Source
from models.darknet import Darknet
from models.postprocess import postprocess
from utils.errors import EnvironmentFault, InputError
from utils.image import network_input, printable
from utils.signals import StopRequest
from utils.structures import Detections, Letterbox
from utils.video import VideoWriter

Prepared = tuple[Frame, np.ndarray, Letterbox]
LIVE_RATE = Fraction(25)  # nominal; the frames of a live source carry the time they came
LIVE_TICK = Fraction(1, 1000)


@dataclass(frozen=True)
class Detector:
    """A network with everything that decides what it reports.

    Attributes:
        letterbox: keep the aspect ratio of the pictures; else stretch them.
        wanted: class indices to report, None for all.
        most: detections a picture at most, None for all.
    """

    network: Darknet
    device: torch.device
    letterbox: bool
    score_threshold: float
    nms_threshold: float
    wanted: tuple[int, ...] | None
    most: int | None
    batch: int

    @torch.inference_mode()
    def detect(self, inputs: Sequence[np.ndarray], letterboxes: Sequence[Letterbox]) -> list[Detections]:
        """Detections of a batch; ``inputs`` float32 (3, H, W) each."""
        images = torch.from_numpy(np.stack(inputs)).to(self.device)
        found = postprocess(
            self.network(images),
            self.network.heads,
            letterboxes,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
        )
        return [select(detections, self.wanted, self.most) for detections in found]


def select(detections: Detections, wanted: Sequence[int] | None, most: int | None) -> Detections:
    """The ``most`` best detections of the ``wanted`` classes (None: no limit), on the CPU."""
    boxes, scores, labels = (part.cpu() for part in (detections.boxes, detections.scores, detections.labels))
    keep: Tensor | slice = slice(most)
    if wanted is not None:
        keep = torch.isin(labels, torch.tensor(wanted)).nonzero()[:most, 0]
    return Detections(boxes[keep], scores[keep], labels[keep])


class Job:
    """One run over all sources: reading -> network -> outputs, each stage in its own thread."""

    def __init__(
        self, args: DetectFlags, detector: Detector, cfg: str, names: Sequence[str], stop: StopRequest
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

    def _prepare(self, source: Source) -> Generator[Prepared]:
        for frame in source:
            if self.stopping():
                return
            yield frame, *network_input(frame.image, self.detector.network.size, letterbox=self.detector.letterbox)

    def _detect(self, prepared: Generator[Prepared], batch: int) -> Generator[tuple[Frame, Detections]]:
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
            if isinstance(source, ImageFiles):
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
