"""models.layers.batch_norm: statistics across the mini-batches of a step, against Darknet's formulas in a loop."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.darknet import Darknet
from models.layers.batch_norm import CrossMiniBatchNorm2d, batch_norm
from utils.cfg import parse_cfg


def cross(subdivisions: int, channels: int = 3) -> CrossMiniBatchNorm2d:
    bn = batch_norm(channels, cross_mini_batch=True)
    bn.subdivisions = subdivisions
    with torch.no_grad():
        bn.weight.copy_(torch.linspace(0.5, 2, channels))
        bn.bias.copy_(torch.linspace(-1, 1, channels))
    return bn.train()


def test_a_step_of_mini_batches_by_the_formulas() -> None:
    torch.manual_seed(0)
    bn = cross(3)
    rolling_mean, rolling_variance = torch.zeros(3), torch.ones(3)
    for _ in range(2):  # the second step forgets the first
        mean, square = torch.zeros(3), torch.zeros(3)
        for j in (1, 2, 3):
            x = torch.randn(2, 3, 4, 5) * j + j
            values = x.transpose(0, 1).flatten(1)  # (C, N)
            own = values.mean(1)
            moment = torch.maximum(values.square().sum(1) / (values.shape[1] - 1), own.square())
            mean = own / j + (1 - 1 / j) * mean
            square = moment / j + (1 - 1 / j) * square
            variance = (square - mean.square()).clamp(min=0)
            normal = (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
            wanted = normal * bn.weight[:, None, None] + bn.bias[:, None, None]
            torch.testing.assert_close(bn(x), wanted, rtol=1e-4, atol=1e-5)
            rolling_mean = 0.99 * rolling_mean + 0.01 * mean
            rolling_variance = 0.99 * rolling_variance + 0.01 * variance
    torch.testing.assert_close(bn.running_mean, rolling_mean)
    torch.testing.assert_close(bn.running_var, rolling_variance)


def test_the_gradient_takes_the_statistics_for_the_mini_batchs_own() -> None:
    """dx = scale / s * (g - mean(g) - n * mean(g * n)), n the normalised values, s the gathered deviation."""
    torch.manual_seed(1)
    bn = cross(2)
    bn(torch.randn(2, 3, 4, 4) * 2 + 1)
    x = torch.randn(2, 3, 4, 4).requires_grad_()
    y = bn(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    mean, variance = bn._mean, bn._square - bn._mean.square()
    scale = bn.weight.detach()[:, None, None] / (variance + 1e-5).sqrt()[:, None, None]
    normal = (x.detach() - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
    mean_gradient = gradient.mean((0, 2, 3))[:, None, None]
    shared = (gradient * normal).mean((0, 2, 3))[:, None, None]
    torch.testing.assert_close(x.grad, scale * (gradient - mean_gradient - normal * shared), rtol=1e-4, atol=1e-6)


def test_one_mini_batch_a_step_is_almost_plain_batch_norm() -> None:
    x = torch.randn(8, 3, 16, 16)
    plain = nn.BatchNorm2d(3, eps=1e-5, momentum=0.01).train()
    plain.load_state_dict(cross(1).state_dict())
    torch.testing.assert_close(cross(1)(x), plain(x), rtol=1e-3, atol=2e-3)  # but for N - 1 in the place of N


def test_evaluation_uses_and_leaves_the_rolling_statistics() -> None:
    bn = cross(2)
    bn(torch.randn(2, 3, 4, 4))
    mean, gathered = bn.running_mean.clone(), bn._gathered
    x = torch.randn(2, 3, 4, 4)
    wanted = (x - mean[:, None, None]) / (bn.running_var + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(bn.eval()(x), wanted * bn.weight[:, None, None] + bn.bias[:, None, None])
    assert torch.equal(bn.running_mean, mean) and bn._gathered == gathered == 1


@pytest.mark.parametrize("key", ["batch_normalize=2", "batch_normalize=1\ncbn=1"])
def test_a_cfg_asks_for_it(key: str) -> None:
    text = f"[net]\nwidth=8\nheight=8\nchannels=3\nbatch=8\nsubdivisions=4\n[convolutional]\n{key}\nfilters=2\nsize=1\n"
    bn = Darknet(parse_cfg(text)).layers[0].bn
    assert isinstance(bn, CrossMiniBatchNorm2d) and bn.subdivisions == 4
