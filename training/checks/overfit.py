"""Overfit a few images: what a network that is put together rightly can do in seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.formats.dataset import Dataset
from data.loading.batch_loader import Loading
from data.loading.detection import eval_loader
from models.darknet import Darknet
from models.losses.criterion import Criterion
from training.cfg import BYTES_PER_ACTIVATION
from training.checks.findings import Finding
from training.precise_bn import measure_statistics
from training.schedule.plan import MEMORY_FOR_ACTIVATIONS
from utils.cfg.layers import Connected
from utils.device import autocast
from utils.structures import Size, Targets

Clock = Callable[[], float]  # seconds from somewhere

_RATE = 0.004  # of Adam; measured, 8 images: .001 finds less in 30 to 50 steps, of a network with weights too
_BETAS = (0.9, 0.95)  # a short memory: what the first steps saw is soon of no use
_WARM_UP = 5  # steps
_LAST_RATE = 0.05  # of the rate
_STEPS = 80  # that should fit into the time
_SMALLEST = 160  # pixels of an input; below, objects vanish
_LEARNED = 0.5  # AP50 on what was learned that shows it
_FALLS = 0.7  # the part of the loss that may remain
_FEW_STEPS = 30  # from which nothing can be concluded


def representative_images(dataset: Dataset, count: int) -> Dataset:
    """Choose up to ``count`` images with boxes: of every class one, the rarest first, and with few boxes each."""
    objects = [record.labels[~record.crowd] for record in dataset.records]
    by_number = sorted((len(labels), row) for row, labels in enumerate(objects) if len(labels))
    candidates = [row for _, row in by_number]
    members: dict[int, list[int]] = {}
    for row in candidates:
        for label in np.unique(objects[row]).tolist():
            members.setdefault(label, []).append(row)
    rarest_first = sorted(members, key=lambda label: len(members[label]))
    chosen: list[int] = []
    for row in (*(members[label][0] for label in rarest_first), *candidates):
        if row not in chosen and len(chosen) < count:
            chosen.append(row)
    return replace(dataset, records=tuple(dataset.records[row] for row in sorted(chosen)))


def one_batch(dataset: Dataset, size: Size, *, letterbox: bool) -> tuple[Tensor, Targets]:
    """All images of ``dataset``: float (B, 3, H, W) in [0, 1], and their truth in input pixels.

    Args:
        size: (H, W) of the network input.
        letterbox: keep the aspect ratio; else stretch.
    """
    loader = eval_loader(dataset, batch=len(dataset), size=size, letterbox=letterbox, loading=Loading(workers=0))
    ((images, letterboxes, records),) = loader
    placed = zip(letterboxes, records, strict=True)
    counts = [len(record.boxes) for record in records]
    return images, Targets(
        torch.from_numpy(np.repeat(np.arange(len(records)), counts)),
        torch.from_numpy(np.concatenate([record.labels for record in records])),
        torch.cat([letterbox.apply(torch.from_numpy(record.boxes)) for letterbox, record in placed]),
        torch.from_numpy(np.concatenate([record.crowd for record in records])),
    )


@dataclass(frozen=True)
class Learning:
    """How overfitting went.

    Attributes:
        losses: of each step, for one image; ends at the first that is not finite.
        seconds: it took.
    """

    losses: tuple[float, ...]
    seconds: float

    @property
    def finite(self) -> bool:
        """Whether the loss stayed a number."""
        return all(map(math.isfinite, self.losses))

    @property
    def remaining(self) -> float:
        """The last loss as a part of the first."""
        return self.losses[-1] / max(self.losses[0], 1e-9)


def affordable_size(
    network: Darknet,
    images: int,
    seconds: float,
    *,
    dtype: torch.dtype = torch.float32,
    clock: Clock = time.perf_counter,
) -> Size:
    """The input (H, W), the cfg's or smaller, at which a few dozen steps of ``images`` images fit into ``seconds``.

    Passes of one image of the cfg's size are timed; the network is left as it was but for its statistics.
    """
    if any(isinstance(section, Connected) for section in network.config.layers):
        return network.size  # its weights are made for one size
    device = next(network.parameters()).device
    picture = torch.rand(1, network.config.net.channels, *network.size, device=device)
    spent = []
    for _ in range(2):  # the first pass chooses algorithms
        start = clock()
        with autocast(device, dtype):
            raws = network(picture)
        sum(raw.square().mean() for raw in raws).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(clock() - start)
    network.zero_grad(set_to_none=True)
    in_time = seconds / (_STEPS * images * max(min(spent), 1e-6))
    in_memory = MEMORY_FOR_ACTIVATIONS / (BYTES_PER_ACTIVATION * network.graph.activations * images)
    factor = math.sqrt(min(1.0, in_time, in_memory))
    factor = min(1.0, max(factor, _SMALLEST / min(network.size)))
    steps = [max(int(head.stride[axis]) for head in network.heads) for axis in (0, 1)]
    height, width = (round(side * factor / step) * step for side, step in zip(network.size, steps, strict=True))
    return height, width


@torch.no_grad()
def shrink_anchors(network: Darknet, size: Size) -> None:
    """Scale the anchors of ``network`` in place from its own input to one of ``size`` (H, W), as the boxes are."""
    factors = torch.tensor([size[1] / network.size[1], size[0] / network.size[0]])
    for head in network.heads:
        for anchors in (head.anchors, head.all_anchors):
            anchors.mul_(factors.to(anchors))


def overfit(
    network: Darknet,
    criterion: Criterion,
    images: Tensor,
    targets: Targets,
    seconds: float,
    *,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
    clock: Clock = time.perf_counter,
) -> Learning:
    """Train ``network`` on one and the same mini-batch, in place; batch norm ends with the statistics of that.

    Args:
        images: float (B, 3, H, W) in [0, 1], on the network's device.
        seconds: to spend.
        dtype: what autocast computes in.
        progress: show a bar, if standard error is a terminal.
    """
    network.train()
    optimizer = torch.optim.Adam([value for value in network.parameters() if value.requires_grad], betas=_BETAS)
    losses: list[float] = []
    begin = clock()
    silent = None if progress else True
    with tqdm(total=round(seconds), desc="overfitting", unit="s", disable=silent, leave=False) as bar:
        while (spent := clock() - begin) < seconds:
            rate = _RATE * min(1, (len(losses) + 1) / _WARM_UP) * max(_LAST_RATE, 1 - spent / seconds)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses.append(_step(network, criterion, images, targets, optimizer, dtype))
            bar.set_postfix_str(f"loss {losses[-1]:.4g}")
            bar.update(min(round(seconds), round(clock() - begin)) - bar.n)
            if not math.isfinite(losses[-1]):
                break
    measure_statistics(network, [images], precision=dtype)
    return Learning(tuple(losses), clock() - begin)


def learning_line(learning: Learning, ap50: float) -> str:
    """For people."""
    first, last = learning.losses[0], learning.losses[-1]
    able = ": it can learn" if ap50 >= _LEARNED else ""
    return (
        f"loss {first:.4g} -> {last:.4g} in {len(learning.losses)} steps and {learning.seconds:.0f} s, "
        f"AP50 {ap50:.2f} on these images{able}"
    )


def learning_findings(learning: Learning, ap50: float) -> list[Finding]:
    """Whether a network that learned like this can learn."""
    steps, remaining = len(learning.losses), learning.remaining
    if not learning.finite:
        what = f"the loss was not finite in step {steps} of overfitting a few images"
        return [Finding("serious", what, "--precision fp32; if that does not help, another --activation or --loss")]
    if ap50 >= _LEARNED:
        return []
    if steps < _FEW_STEPS:
        what = f"step {steps} of overfitting is too early to tell whether the network learns (AP50 {ap50:.2f})"
        minutes = math.ceil(_STEPS * learning.seconds / steps / 60)
        fix = f"--check {60 * minutes} allows for {_STEPS} steps; an idle machine, a smaller --size or cfg is faster"
        return [Finding("warning", what, fix)]
    if remaining > _FALLS:
        what = f"the loss of a few images fell only to {remaining:.0%} in {steps} steps: the network does not learn"
        return [Finding("serious", what, "drop --freeze, --activation and --loss; look at the boxes of these images")]
    what = f"the loss falls, but the boxes are not found in the very images that were learned (AP50 {ap50:.2f})"
    return [Finding("warning", what, "--check 60 takes a minute; if AP50 stays low, --size and anchors miss the boxes")]


def _step(
    network: Darknet,
    criterion: Criterion,
    images: Tensor,
    targets: Targets,
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype,
) -> float:
    with autocast(images.device, dtype):
        raws = network(images, targets)
    loss = criterion(raws, targets).total / len(images)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()
