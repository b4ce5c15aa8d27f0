"""models.compiling: the same network, compiled; and the network as it was, where that fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.compiling import compile_layers
from models.darknet import Darknet
from tests.painted import CFG
from utils.cfg import parse_cfg

CFG = CFG.replace("[dropout]\nprobability=.02\n", "")


@pytest.fixture(autouse=True)
def _nothing_compiled_stays() -> Iterator[None]:
    yield
    torch.compiler.reset()


def networks() -> tuple[Darknet, Darknet]:
    plain, other = Darknet(parse_cfg(CFG)).train(), Darknet(parse_cfg(CFG)).train()
    other.load_state_dict(plain.state_dict())
    return plain, other


def step(network: Darknet, images: Tensor) -> list[Tensor]:
    """The raw heads, gradients and statistics of a pass."""
    raws = network(images)
    sum(raw.square().mean() for raw in raws).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    return [*raws, *gradients, *network.state_dict().values()]


def test_compiled_layers_compute_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    plain, compiled = networks()
    calls: list[int] = []

    def counting(graph: torch.fx.GraphModule, _: object) -> object:
        calls.append(len(graph.graph.nodes))
        return graph

    compile_layers(compiled, backend=counting)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for seen in (0, 8):  # what changes from step to step is outside
        plain.seen = compiled.seen = seen
        images = torch.rand(2, 3, 64, 64)
        for one, other in zip(step(plain, images), step(compiled, images), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len(calls) == 1 and calls[0] > 20  # once, in one piece
    assert capsys.readouterr().out == ""


def test_what_cannot_be_compiled_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    plain, other = networks()

    def broken(*_: object) -> object:
        raise RuntimeError("no compiler\nhere")

    compile_layers(other, backend=broken)
    images = torch.rand(2, 3, 64, 64)
    for _ in range(2):
        for one, two in zip(step(plain, images), step(other, images), strict=True):
            assert torch.equal(one, two)
    (line,) = capsys.readouterr().out.splitlines()  # said once
    assert line.startswith("--compile: failed (backend='broken' raised: RuntimeError: no compiler here")
    assert line.endswith("the network runs as it is")


def test_layers_that_change_with_every_step_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    text = CFG.replace("filters=14", "filters=14\nassisted_excitation=4000")
    network = Darknet(parse_cfg(text))
    compile_layers(network)
    assert (
        capsys.readouterr().out == "--compile: AssistedExcitation changes with every step; the network runs as it is\n"
    )
    assert network.run_layers.__func__ is Darknet.run_layers


def test_a_network_for_use_is_compiled_for_its_first_shape(capsys: pytest.CaptureFixture[str]) -> None:
    """With its weights as constants; the last mini-batch, which is smaller, need not wait for the compiler again."""
    torch.manual_seed(0)
    plain, compiled = (network.eval().fuse() for network in networks())
    frozen: list[bool] = []

    def counting(graph: torch.fx.GraphModule, _: object) -> object:
        frozen.append(torch._inductor.config.freezing and torch._inductor.config.cpp_wrapper)
        return graph

    compile_layers(compiled, backend=counting)
    for count in (2, 1, 2):
        images = torch.rand(count, 3, 64, 64)
        with torch.inference_mode():
            for one, other in zip(plain(images), compiled(images), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert frozen == [True] and not torch._inductor.config.freezing
    assert capsys.readouterr().out.startswith("--compile: the first images wait")
