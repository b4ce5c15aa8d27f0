"""The fused Mish: its numbers, its derivatives, and every way PyTorch may call it."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from ops_cases import AWKWARD, DTYPES, awkward, cpu_kernels, exact_mish, exact_slope, last_place, needs_fused
from torch import Tensor
from torch.autograd import forward_ad

from models.ops import get_ops, mish, native, set_ops
from models.ops.registration import ops

__all__ = ["cpu_kernels"]  # a fixture, used by name

# Half a unit in the last place is what rounding the exact result leaves; a little more for double rounding.
_TOLERANCE = {torch.float32: 6e-7, torch.float64: 3e-15, torch.bfloat16: 2**-8 * 1.01, torch.float16: 2**-11 * 1.01}


@pytest.fixture(autouse=True)
def _fused() -> None:
    needs_fused()


def assert_close(got: Tensor, exact: Tensor, factor: float = 1.0) -> None:
    tiny = 1e-7 if got.dtype == torch.float16 else 1e-30  # half's denormals
    torch.testing.assert_close(got.double(), exact.double(), rtol=_TOLERANCE[got.dtype] * factor, atol=tiny)


@pytest.mark.parametrize(
    "low, high, most",
    [(-91.8, -87, 3), (-87, -20, 2), (-20, -5, 4.5), (-5, -1, 4), (-1, 0, 3.5), (0, 1, 3), (1, 9, 2.5)],
)
def test_forward_is_within_a_few_units_of_the_last_place(cpu_kernels, low, high, most):
    x = torch.linspace(low, high, 200_003)
    exact = exact_mish(x)
    assert ((mish(x).double() - exact).abs() / last_place(exact, torch.float32)).max() <= most


def test_derivative_is_within_a_few_float_steps(cpu_kernels):
    x = torch.linspace(-30, 30, 400_003)
    error = (ops.mish_backward(torch.ones_like(x), x).double() - exact_slope(x)).abs()
    assert error.max() <= 3.5 * 2**-24  # PyTorch's own reaches 16


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.52), (torch.float16, 0.501)])
def test_every_half_value_is_rounded_well(cpu_kernels, dtype, limit):
    """bf16 takes an exponential and a reciprocal of 13 bits, for 2 hundredths of its last place."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x.isfinite()]
    exact, got = exact_mish(x), mish(x)
    # Below 1e-36 float32, in which bf16 is computed, has no finer steps than bf16 itself.
    inside = (exact.abs() <= torch.finfo(dtype).max) & (exact.abs() > 1e-36)
    error = (got.double() - exact).abs() / last_place(exact, dtype)
    assert error[inside].max() <= limit
    slope = ops.mish_backward(torch.ones_like(x), x)
    near_its_zero = 1e-5 if dtype == torch.bfloat16 else 2**-22
    torch.testing.assert_close(slope.double(), exact_slope(x), rtol=_TOLERANCE[dtype], atol=near_its_zero)


def test_double_is_as_good_as_pytorchs(cpu_kernels):
    x = torch.linspace(-60, 40, 100_001, dtype=torch.float64)
    assert_close(mish(x), F.mish(x), 2)
    assert mish(torch.tensor(-1.19243121451549521, dtype=torch.float64)).item() == pytest.approx(-0.30884341301725041)


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(cpu_kernels, dtype):
    inf, nan = torch.inf, torch.nan
    big = torch.finfo(dtype).max
    x = torch.tensor([inf, -inf, nan, 0.0, -0.0, big, -big, 30.0, -1e38], dtype=torch.float64).to(dtype)
    y = mish(x)
    assert y[0] == inf and y[1].isnan() and y[2].isnan()
    assert not y[3].signbit() and y[4].signbit() and (y[3:5] == 0).all()
    assert y[5] == big and y[6] == 0 and y[7] == 30
    slope = ops.mish_backward(torch.ones_like(x), x)
    assert slope[0] == 1 and slope[1] == 0 and slope[2].isnan()
    assert slope[3] == torch.tensor(0.6, dtype=dtype) and slope[5] == 1 and slope[6] == 0 and slope[8] == 0
    curvature = ops.mish_double_backward(torch.ones_like(x), torch.ones_like(x), x)[1]
    assert (
        curvature[0].abs().item() < 1e-15 and curvature[1] == 0 and curvature[3].item() == pytest.approx(0.64, rel=4e-3)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", AWKWARD)
def test_any_memory(kind, dtype):
    x = awkward(kind, dtype)
    grad = torch.randn(x.shape).to(dtype)
    y, grad_x = mish(x), ops.mish_backward(grad, x)
    assert_close(y, exact_mish(x))
    torch.testing.assert_close(grad_x.double(), grad.double() * exact_slope(x), rtol=_TOLERANCE[dtype], atol=2e-6)
    like = torch.empty_like(x)
    assert y.stride() == like.stride() and grad_x.stride() == like.stride() and y.dtype == dtype


@pytest.mark.parametrize("count", [0, 1, 3, 15, 16, 17, 31, 33, 127, 70_001])
def test_a_value_does_not_depend_on_its_place(cpu_kernels, count):
    x = torch.linspace(-3, 3, 256).repeat(-(-count // 256) + 1)[:count]
    assert torch.equal(mish(x), mish(x[:256]).repeat(-(-count // 256) + 1)[:count] if count else x)


def test_gradient_of_another_memory_format_and_expanded():
    x = torch.randn(2, 5, 4, 3, requires_grad=True)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(2, 5, 4, 3)
    mish(x).backward(grad)
    mish(last).backward(grad)
    assert torch.equal(x.grad, last.grad)
    x.grad = None
    mish(x).sum().backward()  # an expanded gradient
    assert_close(x.grad, exact_slope(x.detach()), 4)


@pytest.mark.parametrize(
    "kind", ["contiguous", "channels_last", "strided", "transposed", "offset", "flipped", "scalar", "single", "empty"]
)
def test_first_and_second_derivatives(kind):
    x = awkward(kind, torch.float64).detach()
    x = (x[:2, :3, :2, :3] if x.dim() == 4 else x[:11] if x.dim() else x).requires_grad_()
    torch.autograd.gradcheck(mish, x, check_batched_grad=True)
    torch.autograd.gradgradcheck(mish, x, check_batched_grad=True)


def test_only_the_input_is_kept():
    kept: list[Tensor] = []
    x = torch.randn(4, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        mish(x)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


@pytest.mark.parametrize(
    "kind, dtype",
    [(kind, torch.float32) for kind in AWKWARD] + [(kind, d) for kind in ("offset", "channels_last") for d in DTYPES],
)
def test_opcheck(kind, dtype):
    x = awkward(kind, dtype)
    grad, v = torch.randn(x.shape).to(dtype), torch.randn(x.shape).to(dtype)
    torch.library.opcheck(ops.mish.default, (x.clone().requires_grad_(),))
    torch.library.opcheck(ops.mish_backward.default, (grad.requires_grad_(), x.clone().requires_grad_()))
    torch.library.opcheck(ops.mish_double_backward.default, (v, grad.detach(), x))


def test_vmap_and_per_sample_gradients():
    x = torch.randn(3, 4, 5)
    for dim in range(3):
        torch.testing.assert_close(torch.vmap(mish, in_dims=dim, out_dims=dim)(x), F.mish(x))
    for dim in range(3):
        torch.testing.assert_close(torch.vmap(ops.mish, in_dims=dim, out_dims=dim)(x), mish(x))
    mixed = torch.vmap(ops.mish_backward, in_dims=(None, 0))(x[0], x)
    torch.testing.assert_close(mixed, ops.mish_backward(x[:1].expand_as(x), x))
    slopes = torch.vmap(torch.func.grad(lambda row: mish(row).sum()))(x)
    torch.testing.assert_close(slopes.double(), exact_slope(x), atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # PyTorch's own call of it
def test_forward_mode_derivative():
    x, direction = torch.randn(50), torch.randn(50)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(mish(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent.double(), direction.double() * exact_slope(x), atol=1e-6, rtol=1e-6)
    assert mish(x).grad_fn is None and mish(x.requires_grad_()).grad_fn.name() != "MishBackward0"


def test_refuses_what_it_cannot_compute():
    with pytest.raises(RuntimeError, match="float32, float64, bfloat16 and float16; convert the tensor first"):
        ops.mish(torch.arange(3))
    with pytest.raises(RuntimeError, match="the gradient must have the input's shape, dtype and device"):
        ops.mish_backward(torch.ones(3), torch.ones(4))
    with pytest.raises(RuntimeError, match="the direction must have"):
        ops.mish_double_backward(torch.ones(3).double(), torch.ones(3), torch.ones(3))


def test_native_mode_is_pytorchs_own():
    mode = get_ops()
    x = torch.randn(100, requires_grad=True)
    try:
        set_ops("native")
        y = mish(x)
    finally:
        set_ops(mode)
    assert torch.equal(y, F.mish(x)) and y.grad_fn.name() == "MishBackward0"
    assert mish(x).grad_fn.name() != "MishBackward0"


def test_compiled_code_sees_tensor_operations():
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph.code)
        return graph.forward

    x = torch.linspace(-20, 20, 1001)
    for dtype in DTYPES:
        y = torch.compile(mish, backend=keep, fullgraph=True)(x.to(dtype))
        assert_close(y, exact_mish(x.to(dtype)), 4)
    assert "exp" in graphs[0] and "mish" not in graphs[0] and "log1p" not in graphs[0]


def test_export_sees_the_standard_operator():
    class Net(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mish(x)

    program = torch.export.export(Net(), (torch.randn(3),))
    assert "aten.mish.default" in str(program.graph)
    pytest.importorskip("onnxscript", reason="no onnxscript")
    with warnings.catch_warnings(action="ignore"):
        exported = torch.onnx.export(Net(), (torch.randn(3),), dynamo=True, opset_version=18, verbose=False)
    assert [node.op_type for node in exported.model.graph] == ["Mish"]


def test_one_exponential_form_and_its_gradient():
    x = torch.linspace(-100, 100, 20_001, dtype=torch.float64, requires_grad=True)
    y = native.one_exponential(x)
    assert_close(y.detach(), exact_mish(x.detach()), 2)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, exact_slope(x.detach()), atol=1e-12, rtol=1e-9)
    extremes = torch.tensor([torch.inf, 1e38, -1e38, torch.nan], requires_grad=True)
    y = native.one_exponential(extremes)
    assert y[0] == torch.inf and y[1] == 1e38 and y[2] == 0 and y[3].isnan()
