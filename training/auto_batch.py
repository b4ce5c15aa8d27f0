"""Automatic batch size (``--batch auto``): the largest mini-batches that fit into memory, the batch as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.darknet import Darknet
from models.graph import plan
from training.cfg import BYTES_PER_ACTIVATION
from utils.cfg import Config, with_net
from utils.device import autocast
from utils.distributed import World
from utils.errors import EnvironmentFault
from utils.memory import available_memory
from utils.structures import Size

_USABLE = 0.9  # of free memory: the loss and the fragments between tensors need some
_BYTES_PER_PARAMETER = 16  # float32: weight, gradient, momentum, average


def with_auto_batch(config: Config, size: Size, device: torch.device, dtype: torch.dtype, world: World) -> Config:
    """The cfg with the fewest subdivisions whose mini-batches fit, printed; the batch itself stays as it is.

    On a GPU forward and backward passes are tried, on a CPU their memory is estimated.

    Args:
        size: the largest (H, W) the training will see.
        dtype: what the network computes in.

    Raises:
        EnvironmentFault: not one image for each process fits.
    """
    free = _free(device, world)

    def fits(images: int) -> bool:
        if _is_gpu(device):
            return _tried(config, images, size, device, dtype) <= _USABLE * free
        return estimated_bytes(config, images, size) <= _USABLE * free

    parts = world.largest(fewest_parts(config.net.batch, world.size, fits) or 0)
    if parts == 0:
        raise EnvironmentFault(
            f"--batch auto: one image of {size[1]}x{size[0]} does not fit into the {free / 2**30:.1f} GiB "
            f"that are free on {world.describe(device)}; give a smaller --size"
        )
    images = config.net.batch // parts // world.size
    print(
        f"--batch auto: batch {config.net.batch}, subdivisions {parts}: {images} images at a time "
        f"on {world.describe(device)} ({free / 2**30:.1f} GiB free for each)"
    )
    return with_net(config, subdivisions=str(parts))


def fewest_parts(batch: int, processes: int, fits: Callable[[int], bool]) -> int | None:
    """In how few equal parts ``batch`` images can be computed, each shared by the processes; None: in no number.

    Args:
        fits: whether a process can hold so many images.
    """
    most = batch // processes
    choices = (parts for parts in range(1, most + 1) if batch % (parts * processes) == 0)
    return next((parts for parts in choices if fits(batch // processes // parts)), None)


def estimated_bytes(config: Config, images: int, size: Size) -> float:
    """What a training step takes in float32."""
    graph = plan(config)
    larger = size[0] * size[1] / (config.net.height * config.net.width)
    activations = BYTES_PER_ACTIVATION * graph.activations * larger * images
    return activations + _BYTES_PER_PARAMETER * graph.parameters


def _is_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _free(device: torch.device, world: World) -> int:
    """Bytes for this process."""
    if _is_gpu(device):
        return torch.cuda.mem_get_info(device)[0]
    return available_memory() // sum(machine == world.machine for machine in world.gather(world.machine))


def _tried(config: Config, images: int, size: Size, device: torch.device, dtype: torch.dtype) -> float:
    """The most memory that a forward and a backward pass took; infinite where it did not suffice."""
    torch.cuda.reset_peak_memory_stats(device)
    with torch.random.fork_rng(devices=[device]):  # a trial takes no part in what the training draws
        try:
            network = Darknet(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            with autocast(device, dtype):
                raws = network(torch.rand(images, config.net.channels, *size, device=device))
            sum(raw.square().mean() for raw in raws).backward()
            kept = _BYTES_PER_PARAMETER // 2 * network.graph.parameters  # momentum and average come on top
            return torch.cuda.max_memory_allocated(device) + kept
        except torch.OutOfMemoryError:
            return float("inf")
        finally:
            network = raws = None
            torch.cuda.empty_cache()
