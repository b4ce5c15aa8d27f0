"""Each kind of layer against slow loops or hand arithmetic, built from cfg text as users build it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.darknet import Darknet
from models.layers.parametric import DarknetConv2d, normalize_and_activate
from utils.cfg import parse_cfg

KEEP = "[convolutional]\nfilters={0}\nsize=1\nactivation=linear\n"  # a layer that can be routed to


def network(text: str, shape: tuple[int, int, int], net: str = "") -> Darknet:
    channels, height, width = shape
    head = f"[net]\nchannels={channels}\nheight={height}\nwidth={width}\n{net}\n"
    return Darknet(parse_cfg(head + text)).eval()


def run(text: str, x: Tensor, index: int = -1) -> Tensor:
    """What layer ``index`` of a network of ``text`` makes of x; its shape must be the planned one."""
    net = network(text, tuple(x.shape[1:]))
    found = {}
    handle = net.layers[index].register_forward_hook(lambda module, inputs, output: found.update(y=output))
    net(x)
    handle.remove()
    assert tuple(found["y"].shape[1:]) == net.graph.nodes[index].outputs
    return found["y"]


def windows(extent: int, size: int, stride: int, padding: int) -> list[range]:
    """Darknet's windows as pixels inside the image; ``padding`` is the total, its smaller half first."""
    count = (extent + padding - size) // stride + 1
    starts = (i * stride - padding // 2 for i in range(count))
    return [range(max(0, start), min(extent, start + size)) for start in starts]


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(1, 6), stride=st.integers(1, 3), extent=st.integers(6, 13), padding=st.none() | st.integers(0, 5)
)
@pytest.mark.parametrize("kind", ["maxpool", "local_avgpool"])
def test_pooling(kind: str, size: int, stride: int, extent: int, padding: int | None) -> None:
    padding = None if padding is None else min(padding, size)
    x = torch.randn(2, 3, extent, extent + 1)
    text = f"[{kind}]\nsize={size}\nstride={stride}\n" + ("" if padding is None else f"padding={padding}\n")
    total = size - 1 if padding is None else padding
    reduce = (lambda w: w.amax((2, 3))) if kind == "maxpool" else (lambda w: w.mean((2, 3)))
    rows, columns = windows(extent, size, stride, total), windows(extent + 1, size, stride, total)
    if min(map(len, rows + columns)) == 0:  # a window wholly in the padding: no maximum, no mean
        return
    wanted = torch.stack([torch.stack([reduce(x[:, :, r][..., c]) for c in columns], -1) for r in rows], -2)
    torch.testing.assert_close(run(text, x), wanted)


def test_maxpool_of_odd_size_pads_on_the_right() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert run("[maxpool]\nsize=2\nstride=2\n", x).flatten().tolist() == [4, 5, 7, 8]
    assert run("[maxpool]\nsize=2\nstride=1\n", x).flatten().tolist() == [4, 5, 5, 7, 8, 8, 7, 8, 8]


def test_maxpool_stride_per_axis() -> None:
    x = torch.randn(1, 2, 8, 8)
    y = run("[maxpool]\nsize=2\nstride=2\nstride_x=1\n", x)
    assert y.shape == (1, 2, 4, 8)
    assert torch.equal(y[..., :7], F.max_pool2d(x, 2, (2, 1)))


def test_maxpool_depth() -> None:
    x = torch.tensor([1.0, 5, 4, 2, 0, 9]).view(1, 6, 1, 1)
    # Two groups: channels 0, 2, 4 and 1, 3, 5.
    assert run("[maxpool]\nmaxpool_depth=1\nout_channels=2\n", x).flatten().tolist() == [4, 9]


def test_avgpool() -> None:
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(run("[avgpool]\n", x)[..., 0, 0], x.mean((2, 3)))


def test_upsample_and_its_reverse() -> None:
    x = torch.tensor([[1.0, 2], [3, 4]]).view(1, 1, 2, 2)
    wanted = [2, 2, 4, 4, 2, 2, 4, 4, 6, 6, 8, 8, 6, 6, 8, 8]
    assert run("[upsample]\nstride=2\nscale=2\n", x).flatten().tolist() == wanted
    assert run("[upsample]\nstride=-2\n", x).flatten().tolist() == [10]


@pytest.mark.parametrize(("kind", "size", "padding"), [(1, 3, 1), (2, 2, 0)])
def test_antialiasing_blurs_before_the_stride(kind: int, size: int, padding: int) -> None:
    x = torch.randn(1, 2, 8, 8)
    y = run(f"[maxpool]\nsize=2\nstride=2\nantialiasing={kind}\n", x)
    whole = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2, 1)
    row = torch.tensor([0.25, 0.5, 0.25] if kind == 1 else [0.5, 0.5])
    kernel = (row[:, None] * row).expand(2, 1, size, size)
    torch.testing.assert_close(y, F.conv2d(whole, kernel, stride=2, padding=padding, groups=2))


def test_antialiased_convolution() -> None:
    text = "[convolutional]\nfilters=4\nsize=3\nstride=2\npad=1\nactivation=relu\nantialiasing=1\n"
    net = network(text, (3, 9, 9))
    x, layer = torch.randn(1, 3, 9, 9), net.layers[0]
    whole = F.relu(F.conv2d(x, layer.conv.weight, layer.conv.bias, padding=1))
    row = torch.tensor([0.25, 0.5, 0.25])
    wanted = F.conv2d(whole, (row[:, None] * row).expand(4, 1, 3, 3), stride=2, padding=1, groups=4)
    torch.testing.assert_close(layer(x), wanted)
    assert net.graph.nodes[0].outputs == (4, 5, 5)
    assert "kernel" not in str(list(net.state_dict()))  # not part of weights


def test_reorg3d_is_space_to_depth() -> None:
    x = torch.randn(2, 3, 4, 6)
    y = run("[reorg3d]\nstride=2\n", x)
    for k in range(12):  # Darknet's formula: channel k mod c, pixel (k div c) div s, (k div c) mod s of each block
        part = k // 3
        assert torch.equal(y[:, k], x[:, k % 3, part // 2 :: 2, part % 2 :: 2])
    assert torch.equal(run("[reorg3d]\nstride=2\nreverse=1\n", y), x)


def test_reorg_is_darknets_permutation() -> None:
    channels, height, width, stride = 8, 4, 6, 2
    x = torch.arange(float(channels * height * width)).view(1, channels, height, width)
    flat, q = x.flatten(), channels // stride**2
    wanted = torch.empty_like(flat)
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                o = k // q
                source = (
                    i * stride + o % stride + width * stride * ((j * stride + o // stride) + height * stride * (k % q))
                )
                wanted[i + width * (j + height * k)] = flat[source]
    y = run("[reorg]\nstride=2\n", x)
    assert y.shape == (1, 32, 2, 3)
    assert torch.equal(y.flatten(), wanted)


def test_route_takes_a_slice_of_each() -> None:
    text = KEEP.format(4) + KEEP.format(6) + "[route]\nlayers=-1,0\ngroups=2\ngroup_id=1\n"
    net = network(text, (3, 2, 2))
    x = torch.randn(1, 3, 2, 2)
    first = net.layers[0](x)
    second = net.layers[1](first)
    assert torch.equal(net(x)[0], torch.cat((second[:, 3:], first[:, 2:]), 1).flatten(1))


@pytest.mark.parametrize("filters", [3, 5, 8])
def test_shortcut_adds_the_channels_both_have(filters: int) -> None:
    net = network(KEEP.format(5) + KEEP.format(filters) + "[shortcut]\nfrom=0\nactivation=leaky\n", (3, 2, 2))
    x = torch.randn(1, 3, 2, 2)
    first = net.layers[0](x)
    second = net.layers[1](first)
    both = min(5, filters)
    wanted = second.clone()
    wanted[:, :both] += first[:, :both]
    torch.testing.assert_close(net(x)[0], F.leaky_relu(wanted, 0.1).flatten(1))


def test_shortcut_skips_pixels_of_a_larger_map() -> None:
    down = "[convolutional]\nfilters=4\nsize=3\nstride=2\npad=1\nactivation=linear\n"
    net = network(KEEP.format(4) + down + "[shortcut]\nfrom=0\n", (3, 4, 4))
    x = torch.randn(1, 3, 4, 4)
    first = net.layers[0](x)
    torch.testing.assert_close(net(x)[0], (net.layers[1](first) + first[:, :, ::2, ::2]).flatten(1))


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
def test_weighted_shortcut(kind: str, normalization: str) -> None:
    text = KEEP.format(2) * 3 + f"[shortcut]\nfrom=-2,0\nweights_type={kind}\nweights_normalization={normalization}\n"
    net = network(text, (3, 2, 2))
    weight = net.layers[3].weight
    assert weight.shape == ((3, 1) if kind == "per_feature" else (3, 2))
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0], [-2.0], [0.5]]))
    factors = {
        "none": [1, -2, 0.5],
        "relu": [1 / 1.5001, 0, 0.5 / 1.5001],
        "softmax": [math.exp(v) / (1 + math.exp(-3) + math.exp(-0.5) + 1e-4) for v in (0, -3, -0.5)],
    }[normalization]
    x = torch.randn(1, 3, 2, 2)
    first = net.layers[0](x)
    second = net.layers[1](first)
    third = net.layers[2](second)
    terms = (third, second, first)  # the previous layer comes first
    y = net(x)[0]
    torch.testing.assert_close(y, sum(f * t for f, t in zip(factors, terms, strict=True)).flatten(1))
    # Darknet's gradient of a weight is the sum of its term, whatever the normalisation.
    y.sum().backward()
    wanted = [t.sum() for t in terms] if kind == "per_feature" else [t.sum((0, 2, 3)) for t in terms]
    torch.testing.assert_close(weight.grad, torch.stack(wanted).view(weight.shape))


def test_scale_channels_and_sam() -> None:
    x = torch.randn(2, 3, 4, 4)
    squeeze = KEEP.format(5) + "[avgpool]\n" + "[scale_channels]\nfrom=-2\nactivation=relu\n"
    net = network(squeeze, (3, 4, 4))
    y = net.layers[0](x)
    torch.testing.assert_close(net(x)[0], F.relu(y * y.mean((2, 3), keepdim=True)).flatten(1))
    net = network(KEEP.format(5) + KEEP.format(1) + "[scale_channels]\nfrom=-2\nscale_wh=1\n", (3, 4, 4))
    y = net.layers[0](x)
    torch.testing.assert_close(net(x)[0], (y * net.layers[1](y)).flatten(1))
    net = network(KEEP.format(5) + KEEP.format(5) + "[sam]\nfrom=-2\n", (3, 4, 4))
    y = net.layers[0](x)
    torch.testing.assert_close(net(x)[0], (y * net.layers[1](y)).flatten(1))


def test_convolution_with_groups_dilation_and_strides() -> None:
    text = "[convolutional]\nfilters=6\nsize=3\ndilation=2\npad=1\ngroups=3\nstride=2\nstride_y=1\nactivation=linear\n"
    net = network(text, (3, 9, 9))
    conv = net.layers[0].conv
    x = torch.randn(1, 3, 9, 9)
    wanted = F.conv2d(x, conv.weight, conv.bias, stride=(1, 2), padding=2, dilation=2, groups=3)
    assert conv.weight.shape == (6, 1, 3, 3)
    torch.testing.assert_close(net(x)[0], wanted.flatten(1))
    assert net.graph.nodes[0].outputs == tuple(wanted.shape[1:])


def test_convolution_starts_as_darknets() -> None:
    conv = DarknetConv2d(32, 64, 3, groups=4)
    bound = math.sqrt(2 * 4 / (9 * 32))
    assert conv.weight.abs().max() <= bound
    assert float(conv.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not conv.bias.any()


def test_batch_norm_is_cudnns() -> None:
    net = network("[convolutional]\nfilters=4\nsize=1\nbatch_normalize=1\nactivation=linear\n", (3, 4, 4)).train()
    x, layer = torch.randn(2, 3, 4, 4), net.layers[0]
    y = F.conv2d(x, layer.conv.weight)
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
    wanted = (y - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.bn.running_mean, 0.01 * mean)
    torch.testing.assert_close(layer.bn.running_var, 0.99 + 0.01 * y.var((0, 2, 3)))


@pytest.mark.parametrize("activation", ["mish", "leaky", "logistic"])
def test_one_place_normalises_and_activates(activation: str) -> None:
    bn = nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        bn.running_mean.uniform_(), bn.weight.uniform_()
    x = torch.randn(2, 3, 4, 4)
    wanted = {"mish": F.mish, "leaky": lambda v: F.leaky_relu(v, 0.1), "logistic": torch.sigmoid}[activation](bn(x))
    torch.testing.assert_close(normalize_and_activate(x.clone(), bn, activation), wanted)


def test_shared_convolutions_have_the_same_tensors() -> None:
    text = (
        "[convolutional]\nfilters=3\nsize=3\npad=1\nbatch_normalize=1\nactivation=leaky\n"
        "[convolutional]\nfilters=3\nsize=3\npad=1\ndilation=2\nbatch_normalize=1\nactivation=linear\nshare_index=0\n"
    )
    net = network(text, (3, 8, 8))
    one, other = net.layers
    assert other.conv.weight is one.conv.weight
    assert other.bn is one.bn
    assert other.conv.dilation == (2, 2)
    assert sum(p.numel() for p in net.parameters()) == 81 + 3 + 3
    assert list(other.darknet_parameters()) == []
    x = torch.randn(1, 3, 8, 8)
    wanted = net(x)[0]
    torch.testing.assert_close(net.fuse()(x)[0], wanted, atol=1e-5, rtol=1e-5)


def test_xnor_convolves_signs() -> None:
    net = network("[convolutional]\nfilters=2\nsize=3\npad=1\nxnor=1\nactivation=linear\n", (3, 5, 5))
    x, conv = torch.randn(1, 3, 5, 5, requires_grad=True), net.layers[0].conv
    scale = conv.weight.abs().mean((1, 2, 3), keepdim=True)
    wanted = F.conv2d(torch.where(x > 0, 1.0, -1.0), torch.where(conv.weight > 0, scale, -scale), conv.bias, padding=1)
    y = net(x)[0]
    torch.testing.assert_close(y, wanted.flatten(1))
    y.sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert x.grad.abs().sum() > 0


def test_connected_flattens_channel_by_channel() -> None:
    net = network("[connected]\noutput=4\nactivation=relu\n", (2, 3, 3))
    x = torch.randn(2, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    linear = net.layers[0].linear
    torch.testing.assert_close(net(x)[0], F.relu(x.contiguous().view(2, -1) @ linear.weight.T + linear.bias))


def test_implicit_is_the_same_for_each_image() -> None:
    net = network(KEEP.format(2) + "[implicit]\nfilters=6\natoms=2\nmean=3\nstd=0.1\n", (3, 2, 2))
    y = net(torch.randn(4, 3, 2, 2))[0]
    assert y.shape == (4, 12)
    assert torch.equal(y[0], y[3])
    assert float(y.detach().mean()) == pytest.approx(3, abs=0.2)


def test_dropout_reaches_those_who_read_the_layer_before() -> None:
    text = KEEP.format(50) + "[dropout]\nprobability=.5\n" + KEEP.format(50) + "[route]\nlayers=0\n"
    net = network(text, (3, 4, 4))
    x = torch.randn(1, 3, 4, 4)
    wanted = net.layers[0](x).flatten(1)
    assert torch.equal(net(x)[0], wanted)
    y = net.train()(x)[0]
    dropped = y == 0
    assert 0.4 < dropped.float().mean() < 0.6
    torch.testing.assert_close(y[~dropped], 2 * wanted[~dropped])


def test_dropblock_zeroes_one_square_a_channel() -> None:
    text = "[dropout]\ndropblock=1\ndropblock_size_abs=3\nprobability=.9\n"
    net = network(text, (64, 9, 9), "max_batches=100")
    x, layer = torch.ones(4, 64, 9, 9), net.layers[0]
    layer.train().progress = 0.85  # the full side of 3, and a block where one of 81 numbers is below .9 / 9
    y = layer(x)
    for image in y:
        zeros = image == 0
        sides = {(int(z.any(1).sum()), int(z.any(0).sum())) for z in zeros if z.any()}
        assert sides == {(3, 3)}
        assert image.max() == pytest.approx(1 / (1 - zeros.float().mean()))
        assert zeros.flatten(1).any(1).float().mean() > 0.9
    assert torch.equal(layer.eval()(x), x)
    layer.train().progress = 0.0
    assert torch.equal(layer(x), x)


def test_dropblock_grows_with_the_training() -> None:
    text = "[dropout]\ndropblock=1\ndropblock_size_rel=.5\nprobability=.9\n"
    net = network(text, (64, 10, 8), "max_batches=100\nbatch=1")
    x = torch.ones(1, 64, 10, 8)
    net.seen = 0
    net.train()(x)
    assert net.layers[0].progress == 0
    net.seen = 43  # 43 / 85 of the ramp: int(5 * .506) = 2 rows, int(4 * .506) = 2 columns
    zeros = net(x)[0].view(64, 10, 8) == 0
    assert {(int(z.any(1).sum()), int(z.any(0).sum())) for z in zeros if z.any()} == {(2, 2)}


def test_crop_is_central_and_adjusted_in_evaluation() -> None:
    text = "[crop]\ncrop_height=2\ncrop_width=3\nflip=1\n"
    net = network(text, (3, 4, 7))
    x = torch.rand(2, 3, 4, 7)
    assert torch.equal(net.layers[0](x), x[:, :, 1:3, 2:5] * 2 - 1)
    crops = {tuple(net.layers[0].train()(x).flatten().tolist()) for _ in range(40)}
    assert len(crops) > 10
    plain = network(text + "noadjust=1\n", (3, 4, 7)).layers[0]
    assert torch.equal(plain(x), x[:, :, 1:3, 2:5])


def test_softmax_normalization_activation() -> None:
    x = torch.randn(2, 4, 3, 3)
    grouped = (x.flatten(1).view(2, 2, -1) / 3).softmax(2).view(2, 4, 3, 3)
    torch.testing.assert_close(run("[softmax]\ngroups=2\ntemperature=3\n[avgpool]\n", x, 0), grouped)
    torch.testing.assert_close(run("[softmax]\nspatial=1\n[avgpool]\n", x, 0), x.softmax(1))
    assert torch.equal(run("[activation]\nactivation=hardtan\n", x), x.clamp(-1, 1))
    y = run("[normalization]\nsize=3\nalpha=.5\nbeta=.7\nkappa=2\n", x)
    squares = F.pad(x.square(), (0, 0, 0, 0, 1, 1))
    near = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
    torch.testing.assert_close(y, x / (2 + 0.5 * near) ** 0.7)


def test_standalone_batchnorm() -> None:
    net = network("[batchnorm]\n", (3, 4, 4))
    with torch.no_grad():
        net.layers[0].bn.running_mean.fill_(2)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(net(x)[0], ((x - 2) / math.sqrt(1 + 1e-5)).flatten(1))


def test_cross_mini_batch_norm_gathers_over_a_step() -> None:
    text = "[convolutional]\nfilters=2\nsize=1\nbatch_normalize=2\nactivation=linear\n"
    net = network(text, (2, 3, 3), "batch=4\nsubdivisions=2").train()
    bn = net.layers[0].bn
    first, second = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3) * 2 + 1

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((0, 2, 3)), x.square().sum((0, 2, 3)) / 17  # N - 1 of 18 values

    def normal(x: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        return (x - mean[:, None, None]) / ((square - mean**2)[:, None, None] + 1e-5).sqrt()

    (m1, s1), (m2, s2) = moments(first), moments(second)
    torch.testing.assert_close(bn(first), normal(first, m1, s1))
    torch.testing.assert_close(bn(second), normal(second, (m1 + m2) / 2, (s1 + s2) / 2))
    torch.testing.assert_close(bn.running_mean, 0.99 * 0.01 * m1 + 0.01 * (m1 + m2) / 2)
    torch.testing.assert_close(bn(second), normal(second, m2, s2))  # the next step starts anew


def test_cross_mini_batch_norm_of_one_mini_batch_has_batch_norms_gradient() -> None:
    net = network("[convolutional]\nfilters=2\nsize=1\nbatch_normalize=2\nactivation=linear\n", (2, 3, 3)).train()
    x, weights = torch.randn(64, 2, 3, 3), torch.randn(64, 2, 3, 3)
    gradients = []
    for norm in (net.layers[0].bn, nn.BatchNorm2d(2)):
        leaf = x.clone().requires_grad_()
        (norm(leaf) * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=2e-2, rtol=2e-2)  # N - 1 against N in the variance
    net.eval()
    torch.testing.assert_close(net.layers[0].bn(x), nn.BatchNorm2d.forward(net.layers[0].bn, x))
