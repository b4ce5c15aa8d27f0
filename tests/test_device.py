"""utils.device: which device and precision a flag means, on machines with and without GPUs."""

from __future__ import annotations

import pytest
import torch

from utils.device import autocast, precision_name, resolve_precision, select_device
from utils.errors import EnvironmentFault, UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Pretend that so many GPUs are there."""

    def pretend(count: int, bf16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)

    return pretend


@pytest.mark.parametrize(("count", "name", "device"), [(0, "auto", "cpu"), (2, "auto", "cuda"), (2, "cuda:1", "cuda:1"),
                                                       (1, "cpu", "cpu"), (1, "cuda", "cuda")])  # fmt: skip
def test_device(gpus, count: int, name: str, device: str) -> None:
    gpus(count)
    assert select_device(name) == torch.device(device)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1")])
def test_a_gpu_that_is_not_there(gpus, count: int, name: str) -> None:
    gpus(count)
    with pytest.raises(EnvironmentFault, match=f"--device {name}: torch sees {count} GPUs here; use --device cpu"):
        select_device(name)


def test_names_that_are_no_device() -> None:
    with pytest.raises(UsageError, match=r"--device gpu: no such kind of device \(wanted auto, cpu, cuda"):
        select_device("gpu")
    with pytest.raises(UsageError, match="--device meta: this project runs on cpu and cuda"):
        select_device("meta")


def test_precision(gpus) -> None:
    gpus(1)
    assert resolve_precision("auto", CPU) == torch.float32
    assert resolve_precision("auto", CUDA) == resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("fp16", CUDA) == torch.float16
    assert resolve_precision("fp32", CUDA) == torch.float32
    gpus(1, bf16=False)
    assert resolve_precision("auto", CUDA) == torch.float16


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="--precision fp16: half precision needs a GPU; on a CPU use bf16 or fp32"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_names_of_precisions(name: str) -> None:
    assert precision_name(resolve_precision(name, CUDA)) == name


def test_autocast_computes_in_the_dtype_asked_for() -> None:
    a = torch.rand(3, 3)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(
    ("abilities", "dtype"),
    [({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)
def test_auto_trains_in_bf16_where_the_cpu_multiplies_in_it(monkeypatch, abilities: dict, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    assert resolve_precision("auto", CPU, training=True) == dtype
    assert resolve_precision("auto", CPU) == torch.float32  # inference gives Darknet's numbers
    assert resolve_precision("auto", CPU, operations=2.9e9) == torch.float32
    assert resolve_precision("auto", CPU, operations=6.9e9) == dtype  # unless the network is YOLOv4-tiny or larger
    assert resolve_precision("fp32", CPU, operations=6.9e9) == torch.float32
    assert resolve_precision("fp32", CPU, training=True) == torch.float32
