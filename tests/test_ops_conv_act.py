"""models.ops conv_act: convolution, bias and activation in one, on a processor with AMX, against float64."""

from __future__ import annotations

import copy
import ctypes
import mmap

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.compiling import compile_layers
from models.darknet import Darknet
from models.layers.parametric import BinaryConv2d
from models.ops import PackedConv2d, extension, native, set_ops
from models.ops.registration import ops
from tests.painted import CFG
from utils.cfg import parse_cfg

pytestmark = pytest.mark.skipif(not extension.has_conv_act(), reason="a processor without AMX")

MISH = native.ACTIVATIONS["mish"]
GEOMETRIES = {  # channels, height, width, filters, kernel, stride, padding, batch
    "1x1": (64, 9, 11, 32, 1, 1, 0, 1),
    "1x1, fewer positions than a tile": (32, 3, 1, 16, 1, 1, 0, 1),
    "1x1, a position over": (32, 7, 7, 64, 1, 1, 0, 3),
    "1x1, channels and filters over": (24, 13, 13, 255, 1, 1, 0, 2),
    "1x1, stride 2": (32, 17, 19, 64, 1, 2, 0, 1),
    "1x1, padded": (32, 6, 5, 32, 1, 1, 0, 2),
    "3x3": (64, 20, 20, 96, 3, 1, 1, 1),
    "3x3, channels over": (40, 13, 7, 40, 3, 1, 1, 2),
    "3x3, stride 2": (32, 26, 27, 64, 3, 2, 1, 1),
    "3x3, stride 3": (32, 20, 22, 32, 3, 3, 1, 1),
    "3x3, no padding": (32, 9, 8, 32, 3, 1, 0, 1),
    "3x3, padded more": (32, 5, 5, 32, 3, 1, 2, 1),
    "3x3, one position": (64, 3, 3, 8, 3, 1, 0, 1),
    "5x5": (48, 9, 12, 33, 5, 1, 2, 1),
    "5x5, stride 2": (40, 9, 9, 64, 5, 2, 2, 2),
    "8x8": (8, 12, 9, 16, 8, 1, 7, 1),
    "colours": (3, 33, 30, 32, 3, 1, 1, 2),
    "colours, stride 2": (3, 33, 30, 16, 3, 2, 1, 1),
    "colours, too many taps to gather": (3, 40, 41, 64, 7, 2, 3, 1),
    "grey": (1, 20, 21, 8, 5, 1, 2, 1),
    "four channels": (4, 12, 12, 32, 2, 2, 0, 1),
    "several strips": (96, 120, 90, 32, 3, 1, 1, 1),
    "many filters": (512, 4, 4, 300, 3, 1, 1, 1),
}


def tensors(channels, height, width, filters, kernel, batch) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weights and bias, such that the results have a variance of one."""
    torch.manual_seed(channels + filters)
    x = torch.randn(batch, channels, height, width).bfloat16().contiguous(memory_format=torch.channels_last)
    weights = torch.randn(filters, channels, kernel, kernel) / (channels * kernel * kernel) ** 0.5
    return x, weights.bfloat16(), torch.randn(filters)


def oracle(x: Tensor, weights: Tensor, bias: Tensor | None, stride: int, padding: int, activation: str) -> Tensor:
    y = F.conv2d(x.double(), weights.double(), None if bias is None else bias.double(), stride, padding)
    return native.activate(y, activation)


def assert_rounded(found: Tensor, exact: Tensor) -> None:
    """bf16's rounding (at most 2^-8 of a value), and a little for the sum in float and a coarse exponential."""
    assert found.dtype == torch.bfloat16 and found.shape == exact.shape
    assert ((found.double() - exact).abs() <= exact.abs() * (2**-8 * 1.04) + 2e-5).all()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_is_the_convolution_rounded_once(name):
    *shape, stride, padding, batch = GEOMETRIES[name]
    x, weights, bias = tensors(*shape, batch)
    filters, kernel = shape[3:]
    y = ops.conv_act(x, ops.conv_pack(weights), bias, None, filters, kernel, stride, padding, MISH)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_rounded(y, oracle(x, weights, bias, stride, padding, "mish"))


@pytest.mark.parametrize("activation", native.ACTIVATIONS)
def test_every_activation(activation):
    x, weights, bias = tensors(32, 10, 10, 48, 3, 1)
    for shift in (bias, bias.bfloat16(), None):
        y = ops.conv_act(x, ops.conv_pack(weights), shift, None, 48, 3, 1, 1, native.ACTIVATIONS[activation])
        assert_rounded(y, oracle(x, weights, shift, 1, 1, activation))


@pytest.mark.parametrize(
    "name", ["3x3", "1x1, channels and filters over", "3x3, channels over", "3x3, stride 2", "grey"]
)
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_adds_another_map(name, memory):
    *shape, stride, padding, batch = GEOMETRIES[name]
    x, weights, bias = tensors(*shape, batch)
    exact = oracle(x, weights, bias, stride, padding, "mish")
    added = torch.randn_like(exact).bfloat16().contiguous(memory_format=memory)
    y = ops.conv_act(x, ops.conv_pack(weights), bias, added, *shape[3:], stride, padding, MISH)
    assert ((y.double() - exact - added).abs() <= (exact + added).abs() * (2**-8 * 1.04) + exact.abs() * 1e-3).all()


@pytest.mark.parametrize("name", ["several strips", "many filters", "1x1, a position over"])
def test_threads_change_nothing(name):
    *shape, stride, padding, batch = GEOMETRIES[name]
    x, weights, bias = tensors(*shape, batch)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(ops.conv_act(x, ops.conv_pack(weights), bias, None, *shape[3:], stride, padding, MISH))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("kernel", [1, 3])
def test_what_is_not_finite_stays_where_it_belongs(kernel):
    x, weights, bias = tensors(32, 8, 9, 40, kernel, 1)
    x[0, 5, 2, 3], x[0, 7, 6, 6] = float("nan"), float("inf")
    y = ops.conv_act(x, ops.conv_pack(weights), bias, None, 40, kernel, 1, kernel // 2, MISH)
    exact = oracle(x, weights, bias, 1, kernel // 2, "mish")
    near = torch.zeros(8, 9, dtype=torch.bool)
    reach = kernel // 2
    for row, column in ((2, 3), (6, 6)):
        near[row - reach : row + reach + 1, column - reach : column + reach + 1] = True
    assert torch.equal(y[0].isfinite().all(0), ~near)
    assert_rounded(y[:, :, ~near], exact[:, :, ~near])


def between_forbidden_pages(x: Tensor, at_the_end: bool) -> Tensor:
    """A channels_last copy of ``x`` whose memory ends, or begins, where reading kills the process."""
    page, forbidden = mmap.PAGESIZE, 0
    size = -(-x.numel() * x.element_size() // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for side in (begin, begin + page + size):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(side), page, forbidden) == 0
    offset = page + (size - x.numel() * x.element_size() if at_the_end else 0)
    pixels = x.permute(0, 2, 3, 1)
    copy = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=offset).view(pixels.shape)
    return copy.copy_(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("at_the_end", [True, False])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_reads_nothing_beside_its_input(name, at_the_end):
    *shape, stride, padding, batch = GEOMETRIES[name]
    x, weights, bias = tensors(*shape, batch)
    arguments = (ops.conv_pack(weights), bias, None, *shape[3:], stride, padding, MISH)
    assert torch.equal(ops.conv_act(between_forbidden_pages(x, at_the_end), *arguments), ops.conv_act(x, *arguments))


def test_far_below_zero_and_above():
    x, weights, bias = tensors(32, 6, 6, 32, 1, 1)
    y = ops.conv_act(x * 200, ops.conv_pack(weights), bias, None, 32, 1, 1, 0, MISH)
    exact = oracle(x * 200, weights, bias, 1, 0, "mish")
    assert exact.min() < -0.29 and exact.max() > 300 and (exact.abs() < 1e-38).any()
    assert_rounded(y, exact)


def test_refuses_what_it_cannot_do():
    x, weights, bias = tensors(32, 6, 6, 32, 3, 1)
    packed = ops.conv_pack(weights)
    for arguments, message in (
        ((x.contiguous(), packed, bias, None, 32, 3, 1, 1, MISH), "channels_last bfloat16 x"),
        ((x.float(), packed, bias, None, 32, 3, 1, 1, MISH), "channels_last bfloat16 x"),
        ((x, packed, bias, None, 64, 3, 1, 1, MISH), "packed bfloat16 weights"),
        ((x, packed.float(), bias, None, 32, 3, 1, 1, MISH), "packed bfloat16 weights"),
        ((x, packed, bias[:5], None, 32, 3, 1, 1, MISH), "one value a channel"),
        ((x, packed, bias, x[:, :, :5], 32, 3, 1, 1, MISH), "what is added must have the result's shape"),
        ((x, packed, bias, x.float(), 32, 3, 1, 1, MISH), "what is added must have the result's shape"),
        ((x, packed, bias, None, 32, 3, 1, 3, MISH), "less padding"),
        ((x, packed, bias, None, 32, 3, 0, 1, MISH), "wants a kernel"),
        ((x[:, :, :2], packed, bias, None, 32, 3, 1, 0, MISH), "not smaller"),
        ((x, packed, bias, None, 32, 3, 1, 1, 9), "no activation has the code 9"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.conv_act(*arguments)
    with pytest.raises(RuntimeError, match="square bfloat16 weights"):
        ops.conv_pack(weights.float())


def test_opcheck():
    x, weights, bias = tensors(32, 6, 6, 40, 3, 2)
    torch.library.opcheck(ops.conv_act.default, (x, ops.conv_pack(weights), bias, None, 40, 3, 2, 1, MISH))


# --- the module ----------------------------------------------------------------------------------------------------


def frozen(**geometry) -> PackedConv2d:
    torch.manual_seed(0)
    return PackedConv2d(32, 40, **geometry).bfloat16().requires_grad_(False)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Counts the operator's calls."""
    counted = []

    class Counting:
        conv_pack = ops.conv_pack
        bias_act_ = ops.bias_act_

        @staticmethod
        def conv_act(*arguments):
            counted.append(1)
            return ops.conv_act(*arguments)

    monkeypatch.setattr("models.ops.packed_conv.ops", Counting)
    return counted


@pytest.mark.parametrize(
    "geometry, taken",
    [
        ({"kernel_size": 3, "padding": 1}, True),
        ({"kernel_size": 1, "bias": False}, True),
        ({"kernel_size": 3, "padding": 1, "groups": 8}, False),
        ({"kernel_size": 3, "padding": 2, "dilation": 2}, False),
        ({"kernel_size": (3, 1), "padding": (1, 0)}, False),
        ({"kernel_size": 3, "stride": (1, 2), "padding": 1}, False),
        ({"kernel_size": 9, "padding": 4}, False),
    ],
)
def test_module_takes_what_the_operator_can_do(calls, geometry, taken):
    conv, x = frozen(**geometry), torch.randn(2, 32, 9, 9).bfloat16()
    y = conv.activated(x, "leaky")  # contiguous as well
    assert bool(calls) is taken
    wanted = F.leaky_relu(nn.Conv2d.forward(conv, x), 0.1)
    torch.testing.assert_close(y, wanted, rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(conv.activated(x, "leaky", wanted), 2 * wanted, rtol=2e-2, atol=2e-2)
    del calls[1:]
    set_ops("native")
    conv.activated(x, "leaky")
    set_ops("auto")
    assert len(calls) == taken


def test_module_leaves_gradients_floats_and_binary_weights_alone(calls):
    x = torch.randn(1, 32, 8, 8).bfloat16()
    learning = PackedConv2d(32, 40, 3).bfloat16()
    learning.activated(x, "mish").sum().backward()
    assert learning.weight.grad is not None
    frozen(kernel_size=3).float().activated(x.float(), "mish")
    frozen(kernel_size=3).activated(x.clone().requires_grad_(), "mish").sum().backward()
    BinaryConv2d(32, 40, 3).bfloat16().requires_grad_(False).activated(x, "mish")
    assert not calls
    assert frozen(kernel_size=3).activated(x[:0], "mish").shape == (0, 40, 6, 6)


def test_module_follows_its_weights_and_bias(calls):
    conv, x = frozen(kernel_size=3), torch.randn(1, 32, 8, 8).bfloat16()
    first = conv.activated(x, "linear")
    kept = conv._packed
    conv.activated(x, "linear")
    assert conv._packed is kept
    conv.bias.add_(1)
    torch.testing.assert_close(conv.activated(x, "linear"), first + 1, rtol=1e-2, atol=1e-2)
    conv.weight.zero_()
    torch.testing.assert_close(conv.activated(x, "linear")[0, :, 0, 0], conv.bias)
    torch.testing.assert_close(conv(x)[0, :, 0, 0], conv.bias)  # the plain convolution packs for another library
    twin = copy.deepcopy(conv)
    twin.bias.zero_()
    assert not twin.activated(x, "linear").any() and conv.activated(x, "linear").any()
    assert twin.state_dict().keys() == {"weight", "bias"}


def test_network_is_the_one_of_separate_operators(monkeypatch):
    torch.manual_seed(0)
    network = Darknet(parse_cfg(CFG)).fuse().cast(torch.bfloat16).to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        joined = network(images)
        monkeypatch.setattr("models.ops.packed_conv.has_conv_act", lambda: False)
        separate = network(images)
    for one, two in zip(joined, separate, strict=True):
        assert not torch.equal(one, two)
        torch.testing.assert_close(one, two, rtol=3e-2, atol=3e-2 * two.abs().max().item())


def test_compiled_network_calls_it():
    network = Darknet(parse_cfg(CFG)).fuse().cast(torch.bfloat16).to(memory_format=torch.channels_last)
    graphs = []

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    keys, images = network.state_dict().keys(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        plain = network(images)
        compile_layers(network, backend=keep)
        compiled = network(images)
    torch.compiler.reset()
    convolutions = sum(isinstance(module, PackedConv2d) for module in network.modules())
    assert len(graphs) == 1 and graphs[0].count("torch.ops.yolov4_mish.conv_act") == convolutions
    assert network.state_dict().keys() == keys
    for one, two in zip(plain, compiled, strict=True):
        assert torch.equal(one, two)
