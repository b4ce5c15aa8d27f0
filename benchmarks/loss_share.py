"""What part of a training step the loss is: ``python -m benchmarks.loss_share``.

The loss has the whole mini-batch; forward and backward of the network, which grow in proportion to the images, have
--step-batch of them and are multiplied, since no CPU here holds 64 images of 608 pixels. Losses include their own
backward pass, down to the raw heads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.made_up import made_up
from benchmarks.step_cost import training_step
from benchmarks.tables import RESULTS, Report, table
from models.darknet import Darknet
from models.losses.criterion import Criterion, make_criterion
from utils.cfg import Config, load_cfg, with_size
from utils.device import precision_name, resolve_precision

LOSSES = ("darknet", "scaled", "simota")


def main() -> None:
    """Measure and write benchmarks/results/loss_share.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_share", description=__doc__)
    parser.add_argument("--cfg", default="yolov4.cfg")
    parser.add_argument("--size", type=int, default=608)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--boxes", type=int, default=20, help="in each image (20)")
    parser.add_argument("--step-batch", type=int, default=2, help="images of the steps that are measured (2)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "loss_share.md")
    options = parser.parse_args()
    config = with_size(load_cfg(options.cfg), (options.size, options.size))
    report = Report(options.out, "The loss, of a training step on a CPU")
    ways = losses_of(config, options.batch, options.boxes)
    losses = {name: seconds(once, options.rounds) for name, once in ways.items()}
    rows = []
    for precision in ("fp32", "bf16"):
        device = torch.device("cpu")
        dtype = resolve_precision(precision, device, training=True)
        step = seconds(training_step(config, options.step_batch, device, dtype), options.rounds)
        step *= options.batch / options.step_batch
        rows += [(precision_name(dtype), name, step, loss, share(loss, step)) for name, loss in losses.items()]
    times = options.batch // options.step_batch
    title = (
        f"{options.cfg}, {options.size} pixels, {options.batch} images of {options.boxes} boxes each. "
        f"Medians of {options.rounds}; the network's times are {times} times those of {options.step_batch} images.\n\n"
    )
    header = ("precision", "--loss", "forward and backward, s", "loss, s", "loss, of the step")
    report.add(title + table(header, rows))


def losses_of(config: Config, batch: int, boxes: int) -> dict[str, Callable[[], None]]:
    """Each loss of the same random heads and its gradient, ready to run."""
    torch.manual_seed(0)
    network = Darknet(config).train()
    with torch.no_grad():
        shapes = [raw.shape[1:] for raw in network(made_up(config, 2, 1)[0])]
    raws = [torch.randn(batch, *shape).requires_grad_() for shape in shapes]
    targets = made_up(config, batch, boxes)[1]

    def once(criterion: Criterion) -> None:
        criterion(raws, targets).total.backward()
        for raw in raws:
            raw.grad = None

    return {name: partial(once, make_criterion(network, name)) for name in LOSSES}


def seconds(once: Callable[[], None], rounds: int) -> float:
    """The median time of a call, after one to warm up."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def share(loss: float, step: float) -> str:
    """In per cent of step and loss together."""
    return f"{loss / (step + loss):.1%}"


if __name__ == "__main__":
    main()
