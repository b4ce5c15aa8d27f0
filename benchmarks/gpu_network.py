"""YOLOv4 at 608 on a GPU: what a training step takes, what it keeps, and the largest batch. Part of ``on_gpu``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from benchmarks import gpu_timing
from benchmarks.gpu_targets import ratio
from benchmarks.gpu_timing import Clock, Numbers, all_bytes, attempt, fresh_memory, median_ms, peak_bytes
from benchmarks.tables import table
from benchmarks.training_step_cpu import kept_bytes
from models.darknet import Darknet
from models.ops import set_ops
from utils.cfg import Config, load_cfg, with_activation, with_size

SIDE = 608
MODES = ("native", "fused")
TARGET_BATCH = 32
STEP = 8  # images between two batches that are tried for the largest
GIB = 2**30


@cache
def networks() -> dict[str, Config]:
    """yolov4.cfg, and the same network with one activation throughout."""
    config = with_size(load_cfg("yolov4.cfg"), (SIDE, SIDE))
    others = {f"all {name}": with_activation(config, name.lower()) for name in ("Mish", "leaky", "ReLU")}
    return {"yolov4.cfg": config, **others}


def kept(clock: Clock, found: Numbers) -> str:
    """What one image keeps for backward with either operators."""
    rows = []
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        arguments = (networks()["yolov4.cfg"], dtype, gpu_timing.DEVICE)
        native, fused = (attempt(kept_bytes, mode, *arguments) if clock.has(10) else None for mode in MODES)
        share = ratio(fused, native)
        rows.append((name, native and native / 2**20, fused and fused / 2**20, share))
        if name == "bf16":
            found["kept"] = share
    set_ops("fused")
    header = ("precision", "PyTorch's operators, MiB", "fused, MiB", "fused : PyTorch's")
    return "## Kept for backward, yolov4.cfg, one image\n\n" + table(header, rows)


def training_steps(batches: Sequence[int], clock: Clock, found: Numbers) -> str:
    """Images a second and peak memory of a step without a detector's loss."""
    rows = []
    for batch in batches:
        steps = {}
        for name, config in networks().items():
            for mode in MODES:
                steps[name, mode] = attempt(step, config, batch, mode) if clock.has(15) else None
                milliseconds, peak = steps[name, mode] or (None, None)
                rows.append((batch, name, mode, milliseconds and batch / milliseconds * 1e3, peak and peak / GIB))
        if batch == TARGET_BATCH:
            found.update(_numbers(steps))
    header = ("batch", "network", "operators", "images/s", "peak memory GiB")
    title = (
        f"## Training step at {SIDE}, batch {', '.join(map(str, batches))}: bf16 autocast, channels_last, mean square"
    )
    return f"{title}\n\n" + table(header, rows)


def _numbers(steps: dict[tuple[str, str], tuple[float, int] | None]) -> Numbers:
    """What the targets are about."""

    def of(name: str, mode: str, part: int) -> float | None:
        return steps[name, mode][part] if steps[name, mode] else None

    return {
        "step": ratio(of("yolov4.cfg", "native", 0), of("yolov4.cfg", "fused", 0)),
        "peak": ratio(of("yolov4.cfg", "fused", 1), of("yolov4.cfg", "native", 1)),
        "relu": ratio(of("all Mish", "fused", 0), of("all ReLU", "native", 0)),
    }


def step(config: Config, batch: int, mode: str, rounds: int = 8) -> tuple[float, int]:
    """Milliseconds and peak bytes."""
    set_ops(mode)
    fresh_memory()
    network = Darknet(config).to(gpu_timing.DEVICE, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    images = torch.rand(batch, 3, *network.size, device=gpu_timing.DEVICE)
    images = images.contiguous(memory_format=torch.channels_last)

    def once() -> None:
        with torch.autocast(gpu_timing.DEVICE, torch.bfloat16):
            raws = network(images)
        sum(raw.float().square().mean() for raw in raws).backward()
        optimizer.step()
        optimizer.zero_grad()

    try:
        return median_ms(once, rounds, graph=False), peak_bytes()
    finally:
        set_ops("fused")


def largest_batches(clock: Clock) -> str:
    """The largest batch that trains, by trying."""
    rows = []
    for name in ("yolov4.cfg", "all Mish"):
        native, fused = (largest_batch(networks()[name], mode, clock) for mode in MODES)
        rows.append((name, native, fused))
    header = ("network", "PyTorch's operators", "fused")
    return f"## Largest batch that trains, in steps of {STEP}\n\n" + table(header, rows)


def largest_batch(config: Config, mode: str, clock: Clock) -> int | None:
    """The largest multiple of ``STEP`` whose step fits while the next does not; None where time ran out before."""
    known: dict[int, bool] = {}

    def fits(batch: int) -> bool | None:
        if batch not in known and clock.has(15):
            known[batch] = attempt(step, config, batch, mode, 1) is not None
        return known.get(batch)

    small = attempt(step, config, STEP, mode, 1) if clock.has(15) else None
    if small is None:
        return None
    batch = max(1, int(0.9 * all_bytes() / small[1])) * STEP  # a guess to begin with: memory grows with the batch
    while (fitting := fits(batch)) is not None:
        if fitting and fits(batch + STEP) is False:
            return batch
        batch += STEP if fitting else -STEP
        if batch <= 0:
            return None
    return None
