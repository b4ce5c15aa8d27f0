"""A training step as one process and as several on the cores of one CPU: ``python -m benchmarks.ddp_cpu``.

Every way has the same batch and the same cores, so that what is lost to the exchange of gradients shows. The steps are
whole ones: forward, loss, backward with its exchange, optimiser; images are made up, loading takes no part.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.made_up import made_up
from benchmarks.tables import RESULTS, Report, table
from models.darknet import Darknet
from models.layers.batch_norm import synchronise_batch_norm
from models.losses.criterion import make_criterion
from models.ops import has_fused
from training.optim import make_optimizer
from utils.cfg import load_cfg, with_net, with_size
from utils.distributed import World, join_world

BOXES = 6  # in an image


def main() -> None:
    """Measure and write benchmarks/results/ddp_cpu.md; as one of several processes, measure only."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ddp_cpu", description=__doc__)
    parser.add_argument("--cfg", default="yolov4-tiny-mish.cfg")
    parser.add_argument("--size", type=int, default=416)
    parser.add_argument("--batch", type=int, default=8, help="images of a step, of all processes together (8)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "ddp_cpu.md")
    parser.add_argument("--sync-bn", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # what main starts itself with
    options = parser.parse_args()
    if options.one:
        with join_world() as world:
            print(milliseconds(options, world))
        return
    report = Report(options.out, "Several processes on one CPU")
    alone = started(options, 1)
    rows = []
    for processes in options.processes:
        for sync_bn in (False, True) if processes > 1 else (False,):
            took = alone if processes == 1 else started(options, processes, sync_bn)
            rows.append((processes, "yes" if sync_bn else "no", took, alone / took))
    header = ("processes", "--sync-bn", "ms a step", "speed, one process is 1")
    title = f"{options.cfg} at {options.size}, {options.batch} images a step, {os.cpu_count()} cores in all\n\n"
    report.add(title + table(header, rows))


def started(options: argparse.Namespace, processes: int, sync_bn: bool = False) -> float:
    """Milliseconds a step of so many processes, which share the cores."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    own = ["-m", "benchmarks.ddp_cpu", "--one", "--cfg", options.cfg, "--size", str(options.size)]
    own += ["--batch", str(options.batch), "--steps", str(options.steps), *(["--sync-bn"] if sync_bn else [])]
    threads = max(1, (os.cpu_count() or 1) // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *(launcher if processes > 1 else []), *own]
    return float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)


def milliseconds(options: argparse.Namespace, world: World) -> float:
    """The median time of a step, after one to warm up."""
    torch.manual_seed(0)
    config = with_size(load_cfg(options.cfg), (options.size, options.size))
    config = with_net(config, batch=str(options.batch), subdivisions="1")
    network = Darknet(config).to(memory_format=torch.channels_last).train()
    if options.sync_bn:
        synchronise_batch_norm(network, fuses=has_fused("cpu"))
    replica, criterion = world.replicate(network), make_criterion(network)
    optimizer = make_optimizer(network, config.net)
    images, targets = made_up(config, options.batch // world.size, BOXES)
    times = []
    for _ in range(options.steps + 1):
        world.barrier()
        began = time.perf_counter()
        losses = criterion(replica(images, targets), targets)
        (losses.total / len(images)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
