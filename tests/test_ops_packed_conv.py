"""models.ops.packed_conv: the same numbers as nn.Conv2d, packed again whenever the weights change."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from models.ops import PackedConv2d, packed_conv, set_ops

pytestmark = pytest.mark.skipif(not packed_conv.AVAILABLE, reason="torch without oneDNN")


def frozen(**geometry) -> PackedConv2d:
    torch.manual_seed(0)
    return PackedConv2d(8, 16, **geometry).requires_grad_(False)


def plain(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return nn.Conv2d.forward(conv, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
        {"kernel_size": 1},
        {"kernel_size": (5, 3), "stride": (1, 2), "padding": (2, 1)},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4},
        {"kernel_size": 3, "padding": 1, "groups": 8},
    ],
)
def test_is_the_plain_convolution(dtype, memory, geometry):
    conv = frozen(**geometry).to(dtype)
    for size in ((1, 8, 13, 13), (3, 8, 7, 21)):  # weights stay packed when the picture's size changes
        x = torch.randn(size).to(dtype).contiguous(memory_format=memory)
        torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)
    assert conv._packed is not None


def test_follows_its_weights():
    conv, x = frozen(kernel_size=3), torch.randn(1, 8, 9, 9)
    before = conv(x)
    first = conv._packed
    conv(x)
    assert conv._packed is first  # packed once
    conv.weight.mul_(2)
    torch.testing.assert_close(conv(x), plain(conv, x))
    assert not torch.equal(conv(x), before)
    conv.load_state_dict({"weight": torch.ones(16, 8, 3, 3), "bias": torch.zeros(16)})
    torch.testing.assert_close(conv(x), plain(conv, x))
    conv.to(torch.bfloat16)
    assert conv(x.bfloat16()).dtype == torch.bfloat16


def test_stays_plain_where_packing_would_be_wrong():
    x = torch.randn(2, 8, 9, 9)
    learning = PackedConv2d(8, 16, 3)
    learning(x).sum().backward()
    assert learning._packed is None and learning.weight.grad is not None
    conv = frozen(kernel_size=3)
    leaf = x.clone().requires_grad_()
    conv(leaf).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(torch.func.vmap(conv)(x[:, None]), plain(conv, x)[:, None])
    assert conv(x[:0]).shape == (0, 16, 7, 7)
    with warnings.catch_warnings(action="ignore"):
        assert isinstance(torch.jit.trace(conv, x, check_trace=False)(x), Tensor)
    set_ops("native")
    conv(x)
    set_ops("auto")
    with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
        conv(x)
    assert conv._packed is None
    with pytest.raises(RuntimeError, match="same"):
        conv(x.double())


def test_copies_are_independent():
    conv, x = frozen(kernel_size=3), torch.randn(1, 8, 9, 9)
    conv(x)
    twin = copy.deepcopy(conv)
    assert twin._packed is None and twin.state_dict().keys() == {"weight", "bias"}
    twin.weight.zero_()
    twin.bias.zero_()
    assert not twin(x).any() and conv(x).any()


def test_in_inference_mode():
    with torch.inference_mode():
        x = torch.randn(1, 8, 9, 9)
        conv = frozen(kernel_size=3)  # its weights have no version to go by
        torch.testing.assert_close(conv(x), plain(conv, x))
        assert conv._packed is None
