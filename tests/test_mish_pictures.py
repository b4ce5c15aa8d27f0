"""The formulas behind the pictures of docs/mish.md, against PyTorch's derivatives."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from docs.mish_pictures import INFLECTIONS, MINIMUM, parts


def test_closed_forms_are_the_derivatives() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64, requires_grad=True)
    value = functional.mish(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    drawn = parts(x.detach().numpy())
    for name, expected in (("f", value), ("f'", first), ("f''", second)):
        np.testing.assert_allclose(drawn[name], expected.detach().numpy(), atol=1e-12, err_msg=name)


def test_the_marked_places_are_extremes() -> None:
    (minimum,) = parts(np.array([MINIMUM[0]]))["f"]
    assert abs(minimum - MINIMUM[1]) < 1e-8
    np.testing.assert_allclose(parts(np.array([MINIMUM[0]]))["f'"], 0, atol=1e-7)
    np.testing.assert_allclose(parts(np.array(INFLECTIONS))["f''"], 0, atol=1e-7)
