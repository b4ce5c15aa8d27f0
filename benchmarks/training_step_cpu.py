"""What a training step costs on this CPU, in time and memory: ``python -m benchmarks.training_step_cpu [--threads 1]``.

yolov4.cfg with PyTorch's operators and with the fused ones, and with leaky ReLU for every Mish. Each way has a process
of its own, whose peak of resident memory is its own; they measure in turns, with one thread processor time, so that a
busy machine hardly shows. A step is forward, the loss (the mean square of the raw heads stands for it) and backward.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.tables import RESULTS, Report, table
from models.darknet import Darknet
from models.ops import set_ops
from utils.cfg import load_cfg, with_size
from utils.device import autocast

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WAYS = {
    "PyTorch's operators": ("yolov4.cfg", "native"),
    "fused": ("yolov4.cfg", "fused"),
    "all leaky, fused": ("yolov4-leaky.cfg", "fused"),
}


def main() -> None:
    """Measure and write benchmarks/results/training_step_cpu.md; with --worker measure when a line comes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step_cpu", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(all cores)")
    parser.add_argument("--rounds", type=int, default=5, help="steps each way (5)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--out", type=Path, default=RESULTS / "training_step_cpu.md")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        answer(training_step(*options.worker, options.batch, options.size), options.threads)
        return
    report = Report(options.out, f"Training step of YOLOv4 at {options.size}, batch {options.batch}, on a CPU")
    kind = "processor time, one thread" if options.threads == 1 else f"wall clock, {options.threads} threads"
    report.add(f"Medians of {options.rounds} steps, measured in turns ({kind}); the whole process's memory.\n")
    rows = []
    for precision in ("fp32", "bf16"):
        found = measure(precision, options)
        native_seconds, native_peak = found["PyTorch's operators"]
        rows += [
            (precision, way, seconds, peak, f"{seconds / native_seconds:.2f}", f"{peak / native_peak:.2f}")
            for way, (seconds, peak) in found.items()
        ]
    header = ("precision", "way", "seconds", "peak MiB", "time, PyTorch's = 1", "memory, PyTorch's = 1")
    report.add(table(header, rows))


def measure(precision: str, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Median seconds of a step and peak MiB of each way."""
    shared = ("--threads", options.threads, "--batch", options.batch, "--size", options.size)
    start = (sys.executable, "-m", "benchmarks.training_step_cpu", *map(str, shared), "--worker")
    workers = {way: subprocess.Popen([*start, way, precision], stdin=-1, stdout=-1, text=True) for way in WAYS}
    answers: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds + 1):  # the first one warms up
        for way, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            answers[way].append([float(part) for part in worker.stdout.readline().split()])
    for worker in workers.values():
        worker.communicate()
    return {way: (statistics.median(a[0] for a in each[1:]), each[-1][1]) for way, each in answers.items()}


def training_step(way: str, precision: str, batch: int, size: int) -> Callable[[], None]:
    """A step of ``way``, ready to run."""
    cfg, mode = WAYS[way]
    set_ops(mode)
    torch.manual_seed(0)
    network = Darknet(with_size(load_cfg(cfg), (size, size))).to(memory_format=torch.channels_last).train()
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=torch.channels_last)

    def once() -> None:
        with autocast(images.device, DTYPES[precision]):
            raws = network(images)
        sum(raw.float().square().mean() for raw in raws).backward()
        network.zero_grad()

    return once


def answer(once: Callable[[], None], threads: int) -> None:
    """Answer every line on stdin by the seconds of a step and the process's peak memory so far, in MiB."""
    clock = time.process_time if threads == 1 else time.perf_counter
    for _ in sys.stdin:
        begin = clock()
        once()
        seconds = clock() - begin
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


if __name__ == "__main__":
    main()
