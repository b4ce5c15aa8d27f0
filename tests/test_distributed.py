"""utils.distributed and synchronised batch norm: two processes compute what one does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import eval
from data.augment.detection import augmentation_of
from data.formats.dataset import load_dataset
from data.loading.batch_loader import Loading
from data.loading.training import training_batches
from models.darknet import Darknet
from models.layers.batch_norm import batch_norm, synchronise_batch_norm
from models.layers.pointwise import DropoutLayer
from models.losses.darknet import DarknetLoss
from models.ops.synced_batch_norm import SyncedBatchNorm2d
from models.weights import save_darknet_weights
from tests.ranks import Ranks
from utils import distributed
from utils.cfg import load_cfg, with_net
from utils.distributed import ALONE, World, join_world
from utils.errors import EnvironmentFault, UsageError

IMAGES, PARTS = 8, 2  # of a step
CLASSIFIER = """
[net]
width=16
height=16
channels=3
[convolutional]
filters=2
size=3
stride=2
activation=mish
[avgpool]
[softmax]
"""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as processes:
        yield processes


# --- alone --------------------------------------------------------------------------------------------------------


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world() as world:
        assert world == ALONE and world.is_main
        assert not torch.distributed.is_initialized()


def test_alone_everything_stays_as_it_is() -> None:
    network, state = batch_norm(2), torch.get_rng_state()
    assert ALONE.replicate(network) is network
    assert list(ALONE.accumulate(network, [1, 2, 3])) == [1, 2, 3]
    assert (ALONE.gather("a"), ALONE.on_main(lambda: "b"), ALONE.mean([0.1]), ALONE.largest(3)) == (
        ["a"],
        "b",
        [0.1],
        3,
    )
    ALONE.reseed(0, 0)
    ALONE.average_statistics(network)
    with ALONE.machine_leader_first("data"):
        pass
    assert torch.equal(state, torch.get_rng_state())
    assert ALONE.describe(torch.device("cpu")) == "cpu"
    assert World(1, 8).describe(torch.device("cuda", 1)) == "8 x cuda"
    assert ALONE.device("cpu") == torch.device("cpu")


def test_a_process_of_several_must_know_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    wanted = "WORLD_SIZE=2, but LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set; start the processes with torchrun"
    with pytest.raises(UsageError, match=wanted), join_world():
        pass


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(distributed, "select_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert World(5, 8, local_rank=1).device("cuda") == torch.device("cuda", 1)
    assert chosen == [1]
    with pytest.raises(UsageError, match="--device cuda:0: with 8 processes each takes a GPU of its own"):
        World(5, 8, local_rank=1).device("cuda:0")
    with pytest.raises(EnvironmentFault, match="process 3 of this machine has no GPU, torch sees 2; start no more"):
        World(6, 8, local_rank=2).device("cuda")


def test_what_is_for_one_process_refuses_more() -> None:
    ALONE.refuse("counting")
    with pytest.raises(UsageError, match="counting in one process, not in 4; start it without torchrun"):
        World(1, 4).refuse("counting")


# --- two processes ------------------------------------------------------------------------------------------------


def exchange() -> dict[str, Any]:
    """Every exchange once, each with what it gave this process."""
    with join_world() as world:
        norm = batch_norm(2)
        norm.running_mean += torch.tensor([world.rank, 3.0])
        world.average_statistics(norm)
        world.reseed(0, 7)
        noise = torch.rand(1).item()
        world.reseed(0, 7)
        again = torch.rand(1).item()
        with world.machine_leader_first("data"):
            began = time.monotonic()
            time.sleep(0.3 if world.is_main else 0)
            ended = time.monotonic()
        replica = world.replicate(nn.Linear(1, 1))
        return {
            "synchronising": [replica.require_backward_grad_sync for _ in world.accumulate(replica, "abc")],
            "gather": world.gather(f"rank {world.rank}"),
            "on_main": world.on_main(lambda: world.rank),
            "mean": world.mean([1.5 + world.rank, -1.0]),
            "differs": _caught(lambda: world.check_same(world.rank, "the rank")),
            "same": _caught(lambda: world.check_same(7, "the number")),
            "largest": world.largest(10 * world.rank),
            "statistics": norm.running_mean.tolist(),
            "noise": (noise, again),
            "time": (began, ended),
        }


def test_exchanges(ranks: Ranks) -> None:
    first, second = ranks(exchange)
    for got in (first, second):
        assert got["gather"] == ["rank 0", "rank 1"]
        assert (got["on_main"], got["mean"], got["largest"]) == (0, [2.0, -1.0], 10)
        assert got["statistics"] == [0.5, 3.0]
        assert got["same"] == "nothing"
        assert got["synchronising"] == [False, False, True]
        assert "the rank differs from that of rank" in got["differs"]
        assert got["noise"][0] == got["noise"][1]
    assert first["noise"] != second["noise"]
    assert second["time"][0] >= first["time"][1]  # the clock is the machine's


def fail(how: str) -> str:
    """Rank 1 leaves without a word, or rank 0 fails where it goes first."""
    return _caught(lambda: _fail(how))


def _fail(how: str) -> None:
    with join_world(timeout=20) as world:
        if how == "gone" and world.rank == 1:
            os._exit(1)
        if how == "leader":
            with world.machine_leader_first("data"):
                raise ValueError("the data is not there")
        world.barrier()


def test_those_who_wait_for_the_first_hear_of_its_failure(ranks: Ranks) -> None:
    first, second = ranks(fail, "leader")
    assert first == "ValueError: the data is not there"
    assert second == "EnvironmentFault: rank 1: the first process of this machine failed; see its message"


def _caught(call: Callable[[], None]) -> str:
    try:
        call()
    except (EnvironmentFault, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def left_behind(how: str) -> list[str]:
    """Threads of gloo after a step of two processes that ends well or not; an error is still held then."""
    try:
        with join_world(timeout=20) as world:
            _step(world, how)
    except ValueError:
        return _gloo_threads()
    return _gloo_threads()


def _gloo_threads() -> list[str]:
    tasks = Path("/proc/self/task").glob("*/comm")
    return [name for task in tasks if "gloo" in (name := task.read_text().strip())]


def _step(world: World, how: str) -> None:
    replica = world.replicate(nn.Linear(2, 1))
    replica(torch.ones(1, 2)).sum().backward()
    if how == "failed":
        raise ValueError("both know it")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have names on Linux")
@pytest.mark.parametrize("how", ["well", "failed"])
def test_no_thread_is_left_that_could_abort_a_process_at_its_end(ranks: Ranks, how: str) -> None:
    assert ranks(left_behind, how) == [[], []]


# --- gradients ----------------------------------------------------------------------------------------------------


def gradients(painted: Path, norm: str) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """Gradients of one step, the state after it, and the images of this process.

    Args:
        norm: "frozen", "synced" or "synced and fused", with which two processes compute what one does; or "own".
    """
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = with_net(load_cfg(painted / "painted.cfg"), batch=str(IMAGES), subdivisions=str(PARTS))
    network = Darknet(config).to(memory_format=torch.channels_last).train()
    for module in network.modules():
        if isinstance(module, DropoutLayer):  # draws other numbers in each process
            module.eval()
        if norm == "frozen" and isinstance(module, nn.BatchNorm2d):
            module.eval()
    with join_world() as world:
        if norm.startswith("synced") and world.size > 1:
            synchronise_batch_norm(network, fuses=norm == "synced and fused")
        replica = world.replicate(network)
        dataset = load_dataset(painted, "train")
        augmentation, loading = augmentation_of(config, None), Loading(0, rank=world.rank, ranks=world.size)
        loader = training_batches(dataset, config, augmentation, loading, start=0, seed=1)
        batches = [batch for batch, _ in zip(loader, range(PARTS), strict=False)]
        criterion = DarknetLoss(network.heads)
        for batch in world.accumulate(replica, batches):
            losses = criterion(replica(batch.images.float() / 255), batch.targets)
            (losses.total * world.size / IMAGES).backward()
        world.average_statistics(network)
    names = [name for batch in batches for name in batch.names]
    grads = {name: parameter.grad for name, parameter in network.named_parameters()}
    return grads, network.state_dict(), names


@pytest.mark.parametrize("norm", ["frozen", "synced", "synced and fused"])
def test_two_processes_have_the_gradients_of_one(painted: Path, ranks: Ranks, norm: str) -> None:
    wanted, state, names = gradients(painted, norm)
    first, second = answers = ranks(gradients, painted, norm)
    assert [type(answer) for answer in answers] == [tuple, tuple], answers
    half = IMAGES // PARTS // 2
    in_turn = [name for part in range(PARTS) for got in (first, second) for name in got[2][part * half :][:half]]
    assert in_turn == names  # the same images, each in one process
    for name, gradient in wanted.items():
        torch.testing.assert_close(first[0][name], second[0][name], rtol=0, atol=0)
        # sums of float32 in another order: 1e-5 of the largest value of the tensor
        torch.testing.assert_close(first[0][name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())
    for name, tensor in state.items():
        torch.testing.assert_close(first[1][name], second[1][name], rtol=0, atol=0)
        torch.testing.assert_close(first[1][name], tensor, rtol=1e-5, atol=1e-6)


def test_batch_norm_of_each_process_sees_its_own_images(painted: Path, ranks: Ranks) -> None:
    """Without synchronisation the gradients differ from those of one process, but not among the processes."""
    wanted, _, _ = gradients(painted, "own")
    (first, state, _), (second, other, _) = ranks(gradients, painted, "own")
    assert all(torch.equal(first[name], second[name]) for name in wanted)
    assert all(torch.equal(state[name], other[name]) for name in state)
    name = "layers.0.conv.weight"
    assert (first[name] - wanted[name]).norm() > 1e-3 * wanted[name].norm()


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_two_processes_find_what_one_finds(painted: Path, ranks: Ranks, tmp_path: Path) -> None:
    """Mini-batches of 5, 5 and 2 images: two for one process, one for the other."""
    torch.manual_seed(0)
    network = Darknet(load_cfg(painted / "painted.cfg"))
    save_darknet_weights(network, tmp_path / "random.weights")
    files = ("--cfg", painted / "painted.cfg", "--weights", tmp_path / "random.weights", "--data", painted)
    flags = [str(flag) for flag in (*files, "--batch", 5, "--workers", 0, "--device", "cpu", "--precision", "fp32")]
    outputs = [tmp_path / "one.json", tmp_path / "two.json"]
    eval.main([*flags, "--save-results", str(outputs[0]), "--json", str(tmp_path / "one.metrics.json")])
    more = ["--save-results", str(outputs[1]), "--json", str(tmp_path / "two.metrics.json")]
    assert ranks(eval.main, [*flags, *more]) == [None, None]
    assert outputs[0].stat().st_size > 1000
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    one, two = (json.loads((tmp_path / f"{name}.metrics.json").read_text()) for name in ("one", "two"))
    assert one.pop("images_per_second") and two.pop("images_per_second")
    assert one == two


def test_two_processes_count_what_one_counts(painted: Path, ranks: Ranks, tmp_path: Path) -> None:
    """A classifier: mini-batches of 5, 5 and 2 images."""
    for number, source in enumerate(sorted((painted / "val").iterdir())):
        place = tmp_path / "data" / "val" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / source.name).symlink_to(source)
    (tmp_path / "net.cfg").write_text(CLASSIFIER)
    torch.manual_seed(0)
    save_darknet_weights(Darknet(load_cfg(tmp_path / "net.cfg")), tmp_path / "net.weights")
    files = ("--cfg", tmp_path / "net.cfg", "--weights", tmp_path / "net.weights", "--data", tmp_path / "data")
    flags = [str(flag) for flag in (*files, "--batch", 5, "--workers", 0, "--device", "cpu", "--precision", "fp32")]
    eval.main([*flags, "--json", str(tmp_path / "one.json")])
    assert ranks(eval.main, [*flags, "--json", str(tmp_path / "two.json")]) == [None, None]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one.pop("images_per_second") and two.pop("images_per_second")
    assert one == two and one["images"] == 12


# --- synchronised batch norm --------------------------------------------------------------------------------------


def test_synchronising_keeps_names_tensors_and_sharing() -> None:
    network = nn.Sequential(batch_norm(2), batch_norm(3))
    network.append(nn.Sequential(network[0]))
    before = network.state_dict(keep_vars=True)
    synchronise_batch_norm(network)
    assert isinstance(network[0], SyncedBatchNorm2d) and network[2][0] is network[0]
    after = network.state_dict(keep_vars=True)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    x = torch.randn(2, 2, 3, 3)
    network.eval()
    torch.testing.assert_close(network[0](x), batch_norm(2).eval()(x))


def test_cross_mini_batch_norm_is_not_synchronised() -> None:
    network = nn.Sequential(batch_norm(2, cross_mini_batch=True))
    with pytest.raises(UsageError, match=r"--sync-bn: statistics gather over the subdivisions here .*; choose one"):
        synchronise_batch_norm(network)


# --- a process that is gone ---------------------------------------------------------------------------------------


def test_a_lost_process_is_noticed(ranks: Ranks) -> None:
    """The last test: one of the processes does not come back."""
    first, second = ranks(fail, "gone")
    assert first.startswith("EnvironmentFault: rank 0: lost another process of this run")
    assert "\n" not in first and "--resume" in first
    assert second == "gone"
