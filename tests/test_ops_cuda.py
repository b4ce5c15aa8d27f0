"""The CUDA side: compiles wherever nvcc is, and gives float64's and PyTorch's numbers.

On a GPU with ``-m cuda``; elsewhere test_ops_cuda_emulated.py runs the same tests on the kernels compiled for the CPU.
"""

from __future__ import annotations

import copy
import ctypes
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ops_cases import AWKWARD, DTYPES, awkward, exact_mish, exact_slope, last_place, needs_fused
from torch import Tensor, nn

from models.ops import batch_norm_act, bias_act, build, extension, mish, native, set_ops
from models.ops.registration import ops
from utils.compiler import CACHE_VARIABLE, BuildError, cuda_compiler

EMULATED = os.environ.get("YOLOV4_EMULATED_CUDA")
"""The library of tests/emulated_cuda.py, which then takes the place of the CPU's kernels."""
DEVICE = "cpu" if EMULATED else "cuda"
if EMULATED:
    ctypes.CDLL(EMULATED)
    extension._sides["cpu"] = extension.Side("cpu", Path(EMULATED))

FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((2, 3, 5, 4), (4, 64, 19, 19), (2, 3, 131, 129), (3, 70, 1, 1), (8, 8, 64, 64), (1, 1, 5, 1))
SHAPES += () if EMULATED else ((4, 256, 52, 52), (16, 32, 64, 64))
COUNT = 200_003 if EMULATED else 2_000_003
on_gpu = [pytest.mark.cuda, pytest.mark.usefixtures("gpu")]


@pytest.fixture
def gpu() -> None:
    if not EMULATED and not torch.cuda.is_available():
        pytest.skip("no GPU")
    needs_fused(DEVICE)


real_gpu = pytest.mark.skipif(EMULATED is not None, reason="needs a GPU itself")


@pytest.mark.slow
def test_kernels_compile_for_ampere_and_hopper(tmp_path, monkeypatch):
    try:
        cuda_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    # The front ends see everything; only the optimisers rest.
    flags = ["-gencode=arch=compute_80,code=[sm_80,sm_90]", "-Xptxas", "-O0", "-Xcicc", "-O1"]
    monkeypatch.setattr(build, "_architectures", lambda: flags)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert build.build("cuda").stat().st_size > 100_000


def randn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **options) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, device=DEVICE).to(dtype).contiguous(**options)


class TestMish:
    pytestmark = on_gpu

    @pytest.mark.parametrize(
        "low, high, most", [(-91.8, -86, 4.5), (-86, -20, 4), (-20, -5, 6), (-5, 0, 6), (0, 1, 5), (1, 9, 3)]
    )
    def test_forward_is_within_a_few_units_of_the_last_place(self, low, high, most):
        x = torch.linspace(low, high, COUNT, device=DEVICE)
        exact = exact_mish(x)
        assert ((mish(x).double() - exact).abs() / last_place(exact, torch.float32)).max() <= most

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_every_half_value_is_rounded_correctly(self, dtype):
        x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(DEVICE)
        x = x[x.isfinite()]
        exact = exact_mish(x)
        inside = (exact.abs() <= torch.finfo(dtype).max) & (exact.abs() > 1e-35)
        assert ((mish(x).double() - exact).abs() / last_place(exact, dtype))[inside].max() <= 0.502
        slope = ops.mish_backward(torch.ones_like(x), x)
        assert (slope.double() - exact_slope(x)).abs().max() <= torch.finfo(dtype).eps * 0.55

    def test_derivative_is_no_worse_than_pytorchs(self):
        x = torch.linspace(-30, 30, COUNT, device=DEVICE)
        error = (ops.mish_backward(torch.ones_like(x), x).double() - exact_slope(x)).abs().max()
        theirs = (torch.ops.aten.mish_backward(torch.ones_like(x), x).double() - exact_slope(x)).abs().max()
        assert error <= theirs and error <= 8 * 2**-24

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_special_values(self, dtype):
        big = torch.finfo(dtype).max
        values = [torch.inf, -torch.inf, torch.nan, 0.0, -0.0, big, -big, 30.0]
        x = torch.tensor(values, dtype=torch.float64, device=DEVICE).to(dtype)
        y, slope = mish(x).cpu(), ops.mish_backward(torch.ones_like(x), x).cpu()
        assert y[0] == torch.inf and y[1].isnan() and y[2].isnan() and y[5] == big and y[6] == 0 and y[7] == 30
        assert not y[3].signbit() and y[4].signbit() and (y[3:5] == 0).all()
        assert slope[0] == 1 and slope[1] == 0 and slope[2].isnan() and slope[5] == 1 and slope[6] == 0

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("kind", AWKWARD)
    def test_any_memory(self, kind, dtype):
        x = awkward(kind, dtype, DEVICE)
        tolerance = max(0.51 * torch.finfo(dtype).eps, 1e-6 if dtype == torch.float32 else 0, 1e-14)
        torch.testing.assert_close(mish(x).double(), exact_mish(x), rtol=tolerance, atol=1e-7)
        grad = torch.randn(x.shape, device=DEVICE).to(dtype)
        found = ops.mish_backward(grad, x)
        torch.testing.assert_close(found.double(), grad.double() * exact_slope(x), rtol=tolerance, atol=4e-6)
        assert found.stride() == torch.empty_like(x).stride()

    def test_derivatives(self):
        x = torch.randn(3, 5, dtype=torch.float64, device=DEVICE, requires_grad=True)
        torch.autograd.gradcheck(mish, x)
        torch.autograd.gradgradcheck(mish, x)
        torch.library.opcheck(ops.mish.default, (x.detach().float().requires_grad_(),))

    @real_gpu
    def test_more_elements_than_an_int_counts(self):
        count = 2**31 + 4097
        if torch.cuda.mem_get_info()[0] < 5 * count:
            pytest.skip("not enough memory")
        x = torch.full((count,), 1.5, dtype=torch.bfloat16, device=DEVICE)
        x[-1] = 2.5
        y = mish(x)
        assert y[-1] == mish(x[-1:])[0] and y[2**31] == y[0] and torch.equal(y[-4097:-1], y[:4096])

    @real_gpu
    def test_another_gpu_than_the_current_one(self):
        if torch.cuda.device_count() < 2:
            pytest.skip("one GPU only")
        x = torch.randn(1001, device="cuda:1", requires_grad=True)
        mish(x).sum().backward()
        torch.testing.assert_close(x.grad.double(), exact_slope(x.detach()), rtol=1e-6, atol=1e-6)

    @real_gpu
    def test_stream_and_graph(self):
        x = torch.randn(1 << 20, device=DEVICE)
        wanted, stream = mish(x), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = mish(x)
        stream.synchronize()
        assert torch.equal(found, wanted)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = mish(x)
        x.neg_()
        graph.replay()
        assert torch.equal(captured, mish(x))


class TestBatchNormAct:
    pytestmark = on_gpu

    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("activation", ["mish", "leaky", "relu", "swish", "linear"])
    def test_no_worse_than_pytorchs_pair(self, activation, shape, memory_format):
        for dtype in DTYPES:
            x, grad = (randn(shape, dtype, memory_format=memory_format) for _ in range(2))
            norm = norm_of(shape[1], dtype)
            truth = run(x.double(), norm.double(), activation, grad.double(), "native")
            norm = norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
            ours, theirs = (run(x, norm, activation, grad, mode) for mode in ("fused", "native"))
            floor = {torch.float32: 4e-6, torch.float64: 1e-13}.get(dtype, torch.finfo(dtype).eps)
            for name, value in truth.items():
                scale = value.double().abs().max().clamp(min=1e-3)
                error, other = ((found[name].double() - value).abs().max() / scale for found in (ours, theirs))
                assert error <= max(1.2 * other, floor), (name, dtype)

    def test_results_repeat_bit_for_bit(self):
        size = (2, 64, 19, 20) if EMULATED else (8, 64, 76, 76)
        for memory_format in FORMATS:
            x, grad = (randn(size, torch.bfloat16, memory_format=memory_format) for _ in range(2))
            norm = norm_of(64)
            first, second = (run(x, norm, "mish", grad) for _ in range(2))
            assert all(torch.equal(first[name], second[name]) for name in first)

    def test_statistics_survive_a_mean_far_from_zero(self):
        x = randn((16, 40, 50, 50)) * 0.01 + 1000
        mean, variance = native.statistics(x.double())
        for memory_format in FORMATS:
            found = ops.bn_stats(x.contiguous(memory_format=memory_format), None, None, 0.1, 0.0)
            torch.testing.assert_close(found[0].double(), mean, rtol=1e-7, atol=0)
            torch.testing.assert_close(found[1].double(), variance.rsqrt(), rtol=1e-4, atol=0)

    def test_derivatives(self):
        x = randn((2, 3, 2, 2), torch.float64).requires_grad_()
        norm = norm_of(3, torch.float64)
        torch.autograd.gradcheck(lambda x: batch_norm_act(x, copy.deepcopy(norm), "mish"), x)
        torch.autograd.gradgradcheck(lambda x: batch_norm_act(x, copy.deepcopy(norm), "mish"), x)

    def test_offset_storage(self):
        x, grad = (randn((1 + 4 * 8 * 6 * 6,))[1:].view(4, 8, 6, 6) for _ in range(2))
        norm, bias = norm_of(8), torch.randn(8, device=DEVICE)
        wanted = run(x.clone(), norm, "mish", grad.clone())
        torch.testing.assert_close(run(x, norm, "mish", grad), wanted)
        torch.testing.assert_close(run(x.clone(), norm, "mish", grad), wanted)
        wanted = bias_act(x.clone(), bias, "mish")
        torch.testing.assert_close(bias_act(x, bias, "mish", inplace=True), wanted)

    @real_gpu
    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_more_elements_than_an_int_counts(self, memory_format):
        size = (17, 32, 2048, 2048)
        if torch.cuda.mem_get_info()[0] < 10 * 2 * 17 * 32 * 2048 * 2048:
            pytest.skip("not enough memory")
        x = torch.empty(size, dtype=torch.bfloat16, device="cuda", memory_format=memory_format).normal_()
        norm = norm_of(32)
        found = run(x, norm, "mish", x)
        for part in (slice(0, 1), slice(31, 32)):  # channels at either end, by themselves
            alone = norm_of(1)
            alone.weight.data.copy_(norm.weight[part])
            alone.bias.data.copy_(norm.bias[part])
            wanted = run(x[:, part].contiguous(), alone, "mish", x[:, part].contiguous())
            for name in ("y", "x.grad"):
                torch.testing.assert_close(found[name][-1, part], wanted[name][-1], rtol=2e-2, atol=1e-2)
            for name in ("weight.grad", "bias.grad"):
                torch.testing.assert_close(found[name][part], wanted[name], rtol=1e-3, atol=1)

    @real_gpu
    def test_parameters_on_another_device_are_refused(self):
        x, here, there = randn((2, 3, 4, 4)), torch.ones(3, device="cuda"), torch.ones(3)
        with pytest.raises(RuntimeError, match="weight must lie on the input's device"):
            ops.bn_act(x, here, here, there, None, 0, False)
        with pytest.raises(RuntimeError, match="bias must lie on the input's device"):
            ops.bias_act_(x, there, 0)
        with pytest.raises(RuntimeError, match="mean must lie on the input's device"):
            ops.bn_act(x.cpu(), here, here, None, None, 0, False)
        with pytest.raises(RuntimeError, match="running statistics must be"):
            ops.bn_stats(x, there, there, 0.1, 1e-5)

    def test_mixed_precision_and_evaluation(self):
        conv, norm = nn.Conv2d(3, 8, 3).to(DEVICE), norm_of(8)
        x = randn((2, 3, 9, 9))
        with torch.autocast(DEVICE, torch.bfloat16):
            y = batch_norm_act(conv(x), norm, "mish")
        y.float().mean().backward()
        assert y.dtype == torch.bfloat16 and conv.weight.grad is not None
        norm.eval()
        torch.testing.assert_close(
            batch_norm_act(y.float(), norm, "mish"), F.mish(norm(y.float())), rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize("memory_format", FORMATS)
    def test_bias_act_in_place(self, memory_format):
        x, bias = randn((3, 24, 6, 7), memory_format=memory_format), torch.randn(24, device=DEVICE)
        wanted = F.mish(x + bias.view(1, -1, 1, 1))
        found = bias_act(x, bias, "mish", inplace=True)
        assert found.data_ptr() == x.data_ptr()
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def norm_of(channels: int, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.3).to(DEVICE)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_()
    return norm.double() if dtype == torch.float64 else norm


def run(x: Tensor, norm: nn.BatchNorm2d, activation: str, grad: Tensor, mode: str = "fused") -> dict[str, Tensor]:
    """Forward and backward through a copy of ``norm``: everything the call makes or changes."""
    norm, x = copy.deepcopy(norm), x.detach().requires_grad_()  # no copy: it would lie at a round address
    try:
        set_ops(mode)
        y = batch_norm_act(x, norm, activation)
        y.backward(grad)
    finally:
        set_ops("auto")
    parameters = {f"{name}.grad": p.grad for name, p in norm.named_parameters()}
    return {"y": y.detach(), "x.grad": x.grad, **norm.state_dict(), **parameters}
