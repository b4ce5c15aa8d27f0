"""Fused batch norm over several processes: with one process it is nn.BatchNorm2d; with two, see test_distributed.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ops_cases import needs_fused
from torch import Tensor, nn

from models.layers.batch_norm import synchronise_batch_norm
from models.ops import batch_norm_act


@pytest.fixture(autouse=True)
def _process_group(tmp_path: Path) -> Iterator[None]:
    needs_fused()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def synced(norm: nn.BatchNorm2d) -> nn.Module:
    """A copy of ``norm`` that asks all processes, of which there is one."""
    network = nn.Sequential(copy.deepcopy(norm))
    synchronise_batch_norm(network, fuses=True)
    return network[0]


def passed(x: Tensor, norm: nn.Module, activation: str, grad: Tensor) -> dict[str, Tensor]:
    """Forward and backward: everything the call makes or changes."""
    x = x.detach().clone().requires_grad_()
    y = batch_norm_act(x, norm, activation)
    y.backward(grad)
    grads = {f"{name}.grad": parameter.grad for name, parameter in norm.named_parameters()}
    return {"y": y.detach(), "x.grad": x.grad, **norm.state_dict(), **grads}


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_()
    return norm


@pytest.mark.parametrize("activation", ["mish", "leaky", "relu", "swish", "linear"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_one_process_is_batch_norm(activation: str, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm = norm_of(20)
    x = (3 * torch.randn(3, 20, 7, 5) + 2).to(memory_format=memory_format)
    grad = torch.randn_like(x)
    wanted = passed(x.double(), copy.deepcopy(norm).double(), activation, grad.double())
    for name, got in passed(x, synced(norm), activation, grad).items():
        torch.testing.assert_close(got.double(), wanted[name].double(), rtol=1e-4, atol=2e-5, msg=name)


def test_half_precision_is_as_near_as_the_fused_operators_without_processes() -> None:
    torch.manual_seed(0)
    norm = norm_of(16)
    x, grad = torch.randn(2, 16, 9, 9).bfloat16(), torch.randn(2, 16, 9, 9).bfloat16()
    wanted = passed(x.double(), copy.deepcopy(norm).double(), "mish", grad.double())
    alone, together = (passed(x, n, "mish", grad) for n in (copy.deepcopy(norm), synced(norm)))
    for name in ("y", "x.grad"):
        off = [(got[name].double() - wanted[name]).abs().max() for got in (alone, together)]
        assert off[1] <= 2 * off[0], name  # the gradient is rounded twice


def test_only_the_input_is_kept_for_backward() -> None:
    kept: list[int] = []
    norm = synced(norm_of(8))
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        batch_norm_act(x, norm, "mish")
    assert sorted(kept, reverse=True)[0] == x.numel()
    assert sum(n == x.numel() for n in kept) == 1 and sum(kept) < 1.1 * x.numel()


def test_a_module_with_hooks_is_called() -> None:
    norm, seen = synced(norm_of(4)), []
    norm.register_forward_hook(lambda *_: seen.append(1))
    batch_norm_act(torch.randn(2, 4, 3, 3), norm, "relu")
    assert seen
