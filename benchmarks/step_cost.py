"""What a training step costs, measured so that ways compare on a busy machine.

Each way has a process of its own, whose peak of memory is its own; they measure in turns. On a CPU one thread counts
processor time, which other programs hardly change. A step is forward, the loss (the mean square of what the network
gives stands for it) and backward.

Not for use by hand: as a program this is one of the processes, which `in_turns` starts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from models.darknet import Darknet
from models.ops import set_ops
from utils import cli
from utils.cfg import Config, load_cfg, with_activation, with_size
from utils.device import autocast, resolve_precision, select_device


def in_turns(ways: Mapping[str, Sequence[str]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds and peak MiB of each way.

    Args:
        ways: for each the flags of this module's process.
        rounds: steps that count; one before them warms up.
    """
    start = (sys.executable, "-m", "benchmarks.step_cost")
    workers = {way: subprocess.Popen([*start, *flags], stdin=-1, stdout=-1, text=True) for way, flags in ways.items()}
    answers: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(rounds + 1):
        for way, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            answers[way].append([float(part) for part in worker.stdout.readline().split()])
    for worker in workers.values():
        worker.communicate()
    return {way: (statistics.median(a[0] for a in each[1:]), each[-1][1]) for way, each in answers.items()}


def kind_of_time(device: torch.device) -> str:
    """What the seconds and the memory are, for people."""
    if device.type == "cuda":
        return "wall clock; the GPU's memory"
    threads = torch.get_num_threads()
    clock = "processor time, one thread" if threads == 1 else f"wall clock, {threads} threads"
    return f"{clock}; the whole process's memory"


def training_step(config: Config, batch: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    """A step of the network, ready to run."""
    torch.manual_seed(0)
    network = Darknet(config).to(device, memory_format=torch.channels_last).train()
    images = torch.rand(batch, config.net.channels, *network.size).to(device, memory_format=torch.channels_last)

    def once() -> None:
        with autocast(device, dtype):
            raws = network(images)
        sum(raw.float().square().mean() for raw in raws).backward()
        network.zero_grad()

    return once


def timed(once: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Seconds of a step and the peak of memory so far in MiB: a GPU's, or on a CPU the whole process's."""
    if device.type == "cuda":
        clock = time.perf_counter
        torch.cuda.synchronize()
    else:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    once()
    if device.type == "cuda":
        torch.cuda.synchronize()
        return clock() - begin, torch.cuda.max_memory_allocated() / 2**20
    return clock() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str]) -> None:
    """Answer every line on stdin by what a step costs."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    set_ops(args.ops)
    config = load_cfg(args.cfg)
    config = with_size(config, args.size) if args.size else config
    config = with_activation(config, args.activation) if args.activation else config
    device = select_device(args.device)
    once = training_step(config, args.batch, device, resolve_precision(args.precision, device, training=True))
    for _ in sys.stdin:
        print(*timed(once, device), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="step_cost.py", description=__doc__.splitlines()[0])
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--activation")
    parser.add_argument("--size", type=cli.parse_size)
    parser.add_argument("--batch", type=cli.positive_int, required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ops", default="fused")
    parser.add_argument("--threads", type=cli.positive_int)
    return parser


if __name__ == "__main__":
    cli.run(main)
