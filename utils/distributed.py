"""Processes that train or measure together, as torchrun starts them; one process alone is a world of size 1.

Alone there is no process group and every method hands back what it got. Together, tensors on GPUs travel by NCCL and
all else by gloo, whose calls end with an error as soon as another process is gone.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from utils.device import select_device
from utils.errors import EnvironmentFault, UsageError
from utils.keyed_random import keyed_rng

Value = TypeVar("Value")

TIMEOUT = 120.0  # seconds a process waits for the others before it gives the run up
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells its processes
_LAST_EXCHANGE = 10.0  # seconds a process that leaves waits for the end of an exchange
_POLL = 0.1  # seconds between two looks at whether the first process is ready
_STEP_NOISE = 4  # what a random choice is for: ``data.loading.batch_loader`` has 1 to 3


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is.

    Attributes:
        rank: from 0; rank 0 is the main process, which alone writes and prints.
        size: how many there are.
        local_rank: the rank among those of this machine.
        machine: number of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    machine: int = 0
    _store: Any = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.rank == 0

    def device(self, name: str = "auto") -> torch.device:
        """What ``--device`` names; together with others, on GPUs, each process of a machine has its own.

        Raises:
            UsageError: one GPU for all.
            EnvironmentFault: fewer GPUs than processes.
        """
        device = select_device(name)
        if self.size == 1 or device.type != "cuda":
            return device
        if name not in ("auto", "cuda"):
            raise UsageError(f"--device {name}: with {self.size} processes each takes a GPU of its own; give cuda")
        if self.local_rank >= torch.cuda.device_count():
            raise EnvironmentFault(
                f"process {self.local_rank + 1} of this machine has no GPU, torch sees {torch.cuda.device_count()}; "
                "start no more with --nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def describe(self, device: torch.device) -> str:
        """Where a run computes, for people: ``cuda``, or ``8 x cuda``."""
        return str(device) if self.size == 1 else f"{self.size} x {device.type}"

    # --- exchange; each of these calls is made by all processes ---------------------------------------------------

    def barrier(self) -> None:
        """Wait until all are here."""
        self.gather(None)

    def gather(self, value: Value) -> list[Value]:
        """The ``value`` of every process by rank, for every process; anything that can be pickled, tensors on CPU."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, call: Callable[[], Value]) -> Value:
        """What ``call()`` returns in the main process, which alone makes the call, for all."""
        values: list[Any] = [call() if self.is_main else None]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def mean(self, values: Iterable[float]) -> list[float]:
        """Means over the processes, number by number."""
        values = list(values)
        if self.size == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers)
        return (numbers / self.size).tolist()

    def largest(self, value: int) -> int:
        """The largest ``value`` of any process."""
        return max(self.gather(value))

    def check_same(self, value: object, what: str) -> None:
        """Refuse to go on where ``value`` differs between the processes.

        Raises:
            EnvironmentFault: it does.
        """
        others = [rank for rank, other in enumerate(self.gather(value)) if other != value]
        if others:
            raise EnvironmentFault(
                f"rank {self.rank}: {what} differs from that of rank {others[0]}; "
                "give every machine the same command, files and version"
            )

    def refuse(self, what: str) -> None:
        """Say that ``what`` happens in one process only.

        Raises:
            UsageError: there are several.
        """
        if self.size > 1:
            raise UsageError(f"{what} in one process, not in {self.size}; start it without torchrun")

    # --- training -------------------------------------------------------------------------------------------------

    def replicate(self, network: nn.Module, *, some_idle: bool = False) -> nn.Module:
        """``network`` as it is called in training: gradients become the mean over all processes in backward.

        Args:
            some_idle: there are steps in which some parameters get no gradient.
        """
        if self.size == 1:
            return network
        return DistributedDataParallel(network, broadcast_buffers=False, find_unused_parameters=some_idle)

    def accumulate(self, replica: nn.Module, batches: Sequence[Value]) -> Iterator[Value]:
        """The mini-batches of a step; gradients travel once, while the last of them is computed."""
        if self.size == 1:
            yield from batches
            return
        with replica.no_sync():  # type: ignore[operator]  # of DistributedDataParallel
            yield from batches[:-1]
        yield batches[-1]

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Make the running statistics of batch norm those of all processes, in place."""
        if self.size == 1:
            return
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
        statistics = [
            tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None
        ]
        if statistics:
            flat = torch.cat([tensor.flatten() for tensor in statistics])
            dist.all_reduce(flat)
            flat /= self.size
            torch._foreach_copy_(statistics, list(flat.split([tensor.numel() for tensor in statistics])))

    def reseed(self, seed: int, iteration: int) -> None:
        """Let dropout draw other numbers in each process, as a function of the step.

        Alone the generator goes on from step to step, and a checkpoint keeps where it is.
        """
        if self.size > 1:
            torch.manual_seed(int(keyed_rng(seed, _STEP_NOISE, iteration, self.rank).integers(2**62)))

    @contextlib.contextmanager
    def machine_leader_first(self, what: str) -> Iterator[None]:
        """A block in which one process of a machine goes before the others, however long it takes.

        For what leaves files behind that the others find. ``what`` is a name no other block has.

        Raises:
            EnvironmentFault: it failed; its own message says why.
        """
        if self.size == 1:
            yield
        elif self.local_rank == 0:
            outcome = "failed"
            try:
                yield
                outcome = "done"
            finally:
                self._store.set(f"{what}/{self.machine}", outcome)
        else:
            key = f"{what}/{self.machine}"
            while not self._store.check([key]):  # in turns with Python, so that signals are noticed
                time.sleep(_POLL)
            if self._store.get(key) != b"done":
                raise EnvironmentFault(f"rank {self.rank}: the first process of this machine failed; see its message")
            yield


ALONE = World()


# The group lives until `_leave` ends it: the reducer of DistributedDataParallel refers to it, too, and would free it
# with Python's lock held, which gloo's threads may want.
_JOINED: list[dist.ProcessGroup | None] = []


@contextlib.contextmanager
def join_world(timeout: float = TIMEOUT) -> Iterator[World]:
    """A block in which this process belongs to those torchrun started; without torchrun it is alone.

    Only the main process prints. An exchange that fails because another process is gone or stuck is an
    EnvironmentFault.

    Args:
        timeout: seconds one exchange may take.

    Raises:
        UsageError: a process of several that was not told which.
        EnvironmentFault: the others cannot be reached, or one of them was lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        size = os.environ["WORLD_SIZE"]
        raise UsageError(f"WORLD_SIZE={size}, but {', '.join(missing)} not set; start the processes with torchrun")
    rank = int(os.environ["RANK"])
    try:
        world = _join(timeout)
        with contextlib.ExitStack() as quiet:
            if not world.is_main:
                quiet.enter_context(contextlib.redirect_stdout(quiet.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
            yield world
        world.barrier()  # nobody leaves while another still needs it
    except BaseException as error:
        _forget_variables(error)
        if not isinstance(error, RuntimeError) or not _is_lost(error):
            raise
        reason = str(error).splitlines()[0]
        raise EnvironmentFault(
            f"rank {rank}: lost another process of this run ({reason}); the first message tells why; "
            "train.py goes on from its last checkpoint with --resume"
        ) from error
    finally:
        _leave()


def _join(timeout: float) -> World:
    # Before there is a group: modules that this brings would keep it for good, as the default of an argument.
    import torch._dynamo  # which DistributedDataParallel wants anyway

    wait = datetime.timedelta(seconds=timeout)
    store, rank, size = next(dist.rendezvous("env://", timeout=wait))
    # What an earlier attempt left in the store is not read again: where its processes listened, what they had done.
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    _JOINED.append(dist.group.WORLD)
    return World(rank, size, int(os.environ["LOCAL_RANK"]), int(os.environ.get("GROUP_RANK", "0")), store)


def _forget_variables(error: BaseException | None) -> None:
    """Empty the frames an error keeps alive, which hold what was made from the group."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _leave() -> None:
    """End gloo's threads before the interpreter ends: one that still frees a tensor then would abort the process.

    Freeing the group waits for an exchange in hand. Where another process is stuck in it, this one does not wait long.
    """
    if not dist.is_initialized():
        return
    gc.collect()  # the reducer is part of a cycle
    dist.destroy_process_group()
    ending = threading.Thread(target=_JOINED.clear, daemon=True)
    ending.start()
    ending.join(_LAST_EXCHANGE)


def _is_lost(error: RuntimeError) -> bool:
    """Whether an exchange failed; gloo says so in a plain RuntimeError, with the name of its source file."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
