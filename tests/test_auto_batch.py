"""training.auto_batch: as few parts as memory allows, whatever the number of processes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.painted import CFG
from training import auto_batch
from training.auto_batch import estimated_bytes, fewest_parts, with_auto_batch
from utils.cfg import parse_cfg, with_net
from utils.distributed import ALONE
from utils.errors import EnvironmentFault

CPU = torch.device("cpu")


@given(st.integers(1, 128), st.integers(1, 8), st.integers(1, 140))
def test_the_largest_equal_parts_that_fit(batch: int, processes: int, most: int) -> None:
    parts = fewest_parts(batch, processes, lambda images: images <= most)
    possible = [n for n in range(1, batch + 1) if batch % (n * processes) == 0 and batch // (n * processes) <= most]
    assert parts == (min(possible) if possible else None)


def test_the_estimate_grows_with_images_and_their_size() -> None:
    config = parse_cfg(CFG)
    one, two = (estimated_bytes(config, images, (64, 64)) for images in (1, 2))
    assert estimated_bytes(config, 1, (128, 64)) == two
    # activations of the layers in order, 12 bytes each; 15,926 parameters of 16 bytes
    layers = 32 * 32 * 8 + 16 * 16 * 16 + 8 * 8 * (4 * 24 + 2 * 14)
    assert (two - one, one) == (12 * layers, 12 * layers + 16 * 15_926)


@pytest.mark.parametrize(("images", "parts"), [(64, 1), (8, 8), (7, 16), (1, 64)])
def test_a_cpu_by_estimate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], images: int, parts: int
) -> None:
    config = with_net(parse_cfg(CFG), batch="64", subdivisions="1")
    free = estimated_bytes(config, images, (96, 96)) / 0.9 + 1
    monkeypatch.setattr(auto_batch, "available_memory", lambda: int(free) + 1)
    fitted = with_auto_batch(config, (96, 96), CPU, torch.float32, ALONE)
    assert (fitted.net.batch, fitted.net.subdivisions) == (64, parts)
    assert f"batch 64, subdivisions {parts}: {64 // parts} images at a time on cpu" in capsys.readouterr().out


def test_what_does_not_fit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 1000)
    with pytest.raises(EnvironmentFault, match=r"one image of 96x64 does not fit into the 0\.0 GiB .* on cpu; give a"):
        with_auto_batch(parse_cfg(CFG), (64, 96), CPU, torch.float32, ALONE)


def test_out_of_memory_on_a_gpu_is_a_size_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's part with a GPU that holds two images: the attempt with more ends as torch ends it."""
    tried: list[int] = []

    class Full(torch.nn.Module):
        graph = dataclasses.make_dataclass("Graph", ["parameters"])(100)

        def __init__(self, *_: object) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            tried.append(len(images))
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return [images * self.weight]

    monkeypatch.setattr(auto_batch, "Darknet", Full)
    for name, value in {
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 5000,
        "empty_cache": None,
        "mem_get_info": (2**30, 2**30),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.random, "fork_rng", lambda **_: torch.enable_grad())
    monkeypatch.setattr(auto_batch, "_is_gpu", lambda device: True)
    config = with_net(parse_cfg(CFG), batch="8", subdivisions="1")
    assert with_auto_batch(config, (64, 64), CPU, torch.float32, ALONE).net.subdivisions == 4
    assert tried == [8, 4, 2]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_gpu_by_trial() -> None:
    config = with_net(parse_cfg(CFG), batch="64", subdivisions="64")
    device = torch.device("cuda", 0)
    assert with_auto_batch(config, (64, 64), device, torch.float32, ALONE).net.subdivisions == 1
