"""Darknet's activation functions by the names a cfg uses (reference: Darknet's ``activations.c``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LEAKY_SLOPE = 0.1  # fixed in Darknet; PyTorch's default is 0.01
CHANNEL_EPSILON = 1e-4  # Darknet adds it to the sum it divides by


def hard_mish(x: Tensor) -> Tensor:
    """Mish's shape from two parabolas: x above 0, x^2 / 2 + x in (-2, 0], 0 below."""
    return torch.where(x > 0, x, torch.where(x > -2, x * x / 2 + x, torch.zeros_like(x)))


def plse(x: Tensor) -> Tensor:
    """A piecewise linear sigmoid with its knees at -4 and 4."""
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def lhtan(x: Tensor) -> Tensor:
    """The identity on [0, 1], almost flat (slope 0.001) outside."""
    return torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))


def stair(x: Tensor) -> Tensor:
    """Flat and rising steps in turn, half as steep as the identity on the whole."""
    floor = x.floor()
    half = (floor / 2).floor()
    return torch.where(floor % 2 == 0, half, x - floor + half)


def normalize_channels(x: Tensor) -> Tensor:
    """ReLU, then divided by the sum over channels; (B, C, ...)."""
    positive = F.relu(x)
    return positive / (positive.sum(1, keepdim=True) + CHANNEL_EPSILON)


def normalize_channels_softmax(x: Tensor, *, subtract_maximum: bool = False) -> Tensor:
    """Softmax over channels with Darknet's epsilon in the denominator; (B, C, ...)."""
    exponential = (x - x.amax(1, keepdim=True) if subtract_maximum else x).exp()
    return exponential / (exponential.sum(1, keepdim=True) + CHANNEL_EPSILON)


def _linear(x: Tensor) -> Tensor:
    return x


# None of these touches its input.
_OUT_OF_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "logistic": torch.sigmoid,
    "loggy": lambda x: 2 * torch.sigmoid(x) - 1,
    "relu": F.relu,
    "relu6": F.relu6,
    "elu": F.elu,
    "selu": F.selu,
    "relie": lambda x: F.leaky_relu(x, 0.01),
    "ramp": lambda x: F.relu(x) + 0.1 * x,
    "leaky": lambda x: F.leaky_relu(x, LEAKY_SLOPE),
    "revleaky": lambda x: F.leaky_relu(x, LEAKY_SLOPE),
    "tanh": torch.tanh,
    "plse": plse,
    "hardtan": F.hardtanh,
    "lhtan": lhtan,
    "stair": stair,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "swish": F.silu,
    "mish": F.mish,
    "hard_mish": hard_mish,
    "normalize_channels": normalize_channels,
    "normalize_channels_softmax": normalize_channels_softmax,
    "normalize_channels_softmax_maxval": lambda x: normalize_channels_softmax(x, subtract_maximum=True),
}

# Autograd needs only the result of these, so they may overwrite their input even while training.
_IN_PLACE_FROM_OUTPUT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "leaky": lambda x: F.leaky_relu(x, LEAKY_SLOPE, inplace=True),
    "revleaky": lambda x: F.leaky_relu(x, LEAKY_SLOPE, inplace=True),
    "relie": lambda x: F.leaky_relu(x, 0.01, inplace=True),
    "logistic": torch.sigmoid_,
    "tanh": torch.tanh_,
}

# These need their input for the gradient: in place only when no gradient is wanted.
_IN_PLACE_WITHOUT_GRADIENT: dict[str, Callable[[Tensor], Tensor]] = {
    **_IN_PLACE_FROM_OUTPUT,
    "relu6": lambda x: F.relu6(x, inplace=True),
    "elu": lambda x: F.elu(x, inplace=True),
    "selu": lambda x: F.selu(x, inplace=True),
    "hardtan": lambda x: F.hardtanh(x, inplace=True),
    "swish": lambda x: F.silu(x, inplace=True),
    "mish": lambda x: F.mish(x, inplace=True),
}

ACTIVATIONS = tuple(_OUT_OF_PLACE)


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation ``name`` and leave ``x`` as it is."""
    return _OUT_OF_PLACE[name](x)


def activate_(x: Tensor, name: str) -> Tensor:
    """Apply the activation ``name``, in place where its gradient allows; ``x`` must have no other reader."""
    table = _IN_PLACE_FROM_OUTPUT if x.requires_grad and torch.is_grad_enabled() else _IN_PLACE_WITHOUT_GRADIENT
    return table.get(name, _OUT_OF_PLACE[name])(x)
