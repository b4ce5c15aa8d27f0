"""Batch norm fused with its activation: PyTorch's numbers, statistics and gradients, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from ops_cases import DTYPES, cpu_kernels, needs_fused
from torch import Tensor, nn

from models.ops import batch_norm_act, bias_act, get_ops, native, set_ops
from models.ops.extension import use_cpu_kernels
from models.ops.native import ACTIVATIONS
from models.ops.registration import ops

__all__ = ["cpu_kernels"]  # a fixture, used by name

NAMES = ("mish", "leaky", "relu", "swish", "linear")
FORMATS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((2, 3, 5, 4), (2, 20, 19, 19), (3, 70, 1, 1), (2, 33, 1, 7), (1, 2, 5, 1), (1, 6, 65, 67))


@pytest.fixture(autouse=True)
def _fused() -> None:
    needs_fused()


def norm_of(channels: int, dtype: torch.dtype = torch.float32, **options) -> nn.BatchNorm2d:
    """A batch norm with parameters that matter."""
    norm = nn.BatchNorm2d(channels, momentum=0.3, **options)
    with torch.no_grad():
        if norm.affine:
            norm.weight.uniform_(-1.5, 1.5)
            norm.bias.normal_()
        if norm.track_running_stats:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return norm.double() if dtype == torch.float64 else norm


def run(x: Tensor, norm: nn.BatchNorm2d, activation: str, grad: Tensor, mode: str = "auto") -> dict[str, Tensor]:
    """Forward and backward through a copy of ``norm``: everything the call makes or changes."""
    before, norm, x = get_ops(), copy.deepcopy(norm), x.detach().clone().requires_grad_()
    try:
        set_ops(mode)
        y = batch_norm_act(x, norm, activation)
        y.backward(grad)
    finally:
        set_ops(before)
    found = {"y": y.detach(), "x.grad": x.grad, **norm.state_dict()}
    return found | {f"{name}.grad": p.grad for name, p in norm.named_parameters()}


def exact(x: Tensor, norm: nn.BatchNorm2d, activation: str, grad: Tensor) -> dict[str, Tensor]:
    return run(x.double(), copy.deepcopy(norm).double(), activation, grad.double(), "native")


def errors(got: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each result, relative to the largest value of the truth."""
    found = {}
    for name, value in truth.items():
        value = value.double()
        found[name] = ((got[name].double() - value).abs().max() / value.abs().max().clamp(min=1e-3)).item()
    return found


def assert_no_worse(activation: str, shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    """Every result and gradient of the fused pair is as close to float64 as PyTorch's pair, for every dtype."""
    for dtype in DTYPES:
        x = (torch.randn(shape) * 2 + 1).to(dtype).contiguous(memory_format=memory_format)
        grad, norm = torch.randn(shape).to(dtype), norm_of(shape[1], dtype)
        truth = exact(x, norm, activation, grad)
        ours, theirs = (errors(run(x, norm, activation, grad, mode), truth) for mode in ("fused", "native"))
        floor = {torch.float32: 2e-6, torch.float64: 1e-14}.get(dtype, torch.finfo(dtype).eps)
        for name, error in ours.items():
            assert error <= max(1.2 * theirs[name], floor), (name, dtype)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_mish_is_no_worse_than_pytorchs_pair(cpu_kernels, shape, memory_format):
    assert_no_worse("mish", shape, memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("activation", ["leaky", "relu", "swish", "linear"])
def test_other_activations_are_no_worse_either(cpu_kernels, activation, memory_format):
    assert_no_worse(activation, (2, 20, 9, 8), memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("training", [True, False])
def test_every_option_of_the_module(memory_format, dtype, options, training):
    x = torch.randn(4, 20, 6, 5).to(dtype).contiguous(memory_format=memory_format)
    grad, norm = torch.randn(4, 20, 6, 5).to(dtype), norm_of(20, dtype, **options).train(training)
    found, truth = run(x, norm, "mish", grad), exact(x, norm, "mish", grad)
    assert max(errors(found, truth).values()) < max(8 * torch.finfo(dtype).eps, 1e-6 if dtype == torch.float32 else 0)
    assert found["y"].dtype == dtype and found["y"].is_contiguous(memory_format=memory_format)
    assert set(found) == set(truth)


def test_statistics_survive_a_mean_far_from_zero():
    x = torch.randn(4, 17, 40, 40) * 0.01 + 1000
    x[:, 3] = 5.0  # no deviation at all
    truth_mean, truth_var = native.statistics(x.double())
    for memory_format in FORMATS:
        for kernels in ("plain", "avx2", ""):
            use_cpu_kernels(kernels)
            mean, invstd = ops.bn_stats(x.contiguous(memory_format=memory_format), None, None, 0.1, 0.0)
            torch.testing.assert_close(mean.double(), truth_mean, rtol=1e-7, atol=0)
            torch.testing.assert_close(invstd.double()[4:], truth_var.rsqrt()[4:], rtol=1e-4, atol=0)
            assert invstd[3] == torch.inf


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_no_number_spoils_its_channel_alone(cpu_kernels, poison, memory_format):
    x, grad, norm = torch.randn(2, 21, 5, 7), torch.randn(2, 21, 5, 7), norm_of(21)
    x[1, 17, 2, 3] = poison
    x = x.contiguous(memory_format=memory_format)
    ours, theirs = (run(x, norm, "mish", grad, mode) for mode in ("fused", "native"))
    for name, value in theirs.items():
        finite = value.isfinite()
        assert torch.equal(ours[name].isfinite(), finite), name
        torch.testing.assert_close(ours[name][finite], value[finite], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_huge_and_tiny_values(cpu_kernels, scale, memory_format):
    x = (torch.randn(2, 21, 5, 7) * scale).contiguous(memory_format=memory_format)
    grad, norm = torch.randn(2, 21, 5, 7), norm_of(21, eps=1e-30)
    found, truth = run(x, norm, "mish", grad), exact(x, norm, "mish", grad)
    assert all(error < 1e-5 for error in errors(found, truth).values())


def test_results_do_not_depend_on_the_number_of_threads():
    x, grad, norm = torch.randn(6, 40, 30, 30), torch.randn(6, 40, 30, 30), norm_of(40)
    threads = torch.get_num_threads()
    for memory_format in FORMATS:
        results = []
        for count in (1, 2, 2, 5):
            torch.set_num_threads(count)
            results.append(run(x.contiguous(memory_format=memory_format), norm, "mish", grad))
        torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(torch.equal(other[name], value) for name, value in results[0].items())


def test_running_statistics_and_the_count_of_batches():
    for momentum in (0.01, None):
        fused, plain = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
        for _ in range(4):
            x = torch.randn(2, 3, 4, 4) * 3 + 2
            batch_norm_act(x, fused, "mish")
            plain(x)
        assert fused.num_batches_tracked == 4
        torch.testing.assert_close(fused.state_dict(), plain.state_dict())


def test_state_dict_is_batch_norms_own():
    norm = nn.BatchNorm2d(4)
    before = list(norm.state_dict())
    batch_norm_act(torch.randn(2, 4, 3, 3), norm, "leaky")
    assert list(norm.state_dict()) == before and type(norm) is nn.BatchNorm2d


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_first_and_second_derivatives(activation, training, memory_format):
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    norm = norm_of(3, torch.float64, track_running_stats=not training).train(training)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        norm.__dict__["_parameters"] = {"weight": weight, "bias": bias}
        return batch_norm_act(x, norm, activation)

    inputs = (x, norm.weight, norm.bias)
    torch.autograd.gradcheck(call, inputs)
    torch.autograd.gradgradcheck(call, inputs)


def test_only_the_input_and_channel_values_are_kept():
    kept: list[Tensor] = []
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        batch_norm_act(x, nn.BatchNorm2d(8), "mish")
    assert sum(t.numel() for t in kept) == x.numel() + 4 * 8


def test_gradients_of_parameters_alone_and_of_a_frozen_norm():
    x, norm = torch.randn(2, 5, 4, 4), norm_of(5)
    batch_norm_act(x, norm, "mish").square().sum().backward()
    assert x.grad is None and norm.weight.grad.abs().sum() > 0
    frozen = norm_of(5).eval().requires_grad_(False)
    x.requires_grad_()
    batch_norm_act(x, frozen, "mish").sum().backward()
    fused_grad, x.grad = x.grad, None
    native.mish(frozen(x)).sum().backward()
    torch.testing.assert_close(fused_grad, x.grad)
    assert frozen.weight.grad is None


def test_mixed_precision():
    conv, norm, x = nn.Conv2d(3, 8, 3), norm_of(8), torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y = batch_norm_act(conv(x), norm, "mish")
    assert y.dtype == torch.bfloat16
    y.float().square().mean().backward()
    assert norm.weight.grad.dtype == torch.float32 and conv.weight.grad.dtype == torch.float32
    half = norm_of(3).half()  # running statistics in half: the module's own way
    assert batch_norm_act(x.half(), half, "mish").dtype == torch.float16


def test_gradient_in_another_memory_format_and_expanded():
    x, norm = torch.randn(2, 6, 5, 5), norm_of(6)
    wanted = run(x, norm, "mish", grad := torch.randn(2, 6, 5, 5))
    turned = run(x, norm, "mish", grad.contiguous(memory_format=torch.channels_last))
    assert all(torch.equal(turned[name], value) for name, value in wanted.items())
    even = run(x, norm, "mish", torch.ones(1).expand(2, 6, 5, 5))
    torch.testing.assert_close(even, run(x, norm, "mish", torch.ones(2, 6, 5, 5)), rtol=0, atol=0)


@pytest.mark.parametrize("cut", [(slice(None), slice(None), slice(None, None, 2)), (slice(None, None, 2),)])
def test_input_that_is_not_dense(cut):
    x, norm = torch.randn(4, 6, 8, 5)[cut], norm_of(6)
    for tensor in (x, x.transpose(2, 3), x.contiguous(memory_format=torch.channels_last)[:, :, 1:]):
        grad = torch.randn(tensor.shape)
        ours, theirs = run(tensor, norm, "mish", grad), run(tensor, norm, "mish", grad, "native")
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_what_a_plain_batch_norm_is_not_is_called_as_a_module():
    calls = []
    norm = nn.BatchNorm2d(3)
    norm.register_forward_hook(lambda *_: calls.append(1))
    y = batch_norm_act(torch.randn(2, 3, 4, 4), norm, "mish")
    assert calls == [1] and y.shape == (2, 3, 4, 4)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(norm_of(3)).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(batch_norm_act(x, synced, "mish"), native.mish(synced(x)))


def test_errors():
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=r"activation 'mesh' \(wanted one of mish, leaky"):
        batch_norm_act(torch.randn(2, 3, 4, 4), norm, "mesh")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_norm_act(torch.randn(1, 3, 1, 1), norm, "mish")
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 3"):
        batch_norm_act(torch.randn(1, 4, 2, 2), norm, "mish")
    one = torch.ones(3)
    with pytest.raises(RuntimeError, match="weight must hold one value a channel, 3 in all"):
        ops.bn_act(torch.randn(2, 3, 4, 4), one, one, torch.ones(2), None, 0, False)
    with pytest.raises(RuntimeError, match=r"batch norm wants \(N, C, ...\), got 1 dimensions"):
        ops.bn_act(one, one, one, None, None, 0, False)
    with pytest.raises(RuntimeError, match="no activation has the code 9"):
        ops.bn_act(torch.randn(2, 3, 4, 4), one, one, None, None, 9, False)
    with pytest.raises(RuntimeError, match="bias_act_ wants a contiguous or channels_last x"):
        ops.bias_act_(torch.randn(2, 3, 4, 4)[:, :, ::2], None, 0)
    with pytest.raises(RuntimeError, match="running statistics must be"):
        ops.bn_stats(torch.randn(2, 3, 4, 4), one.double(), one, 0.1, 1e-5)


def test_an_empty_batch_is_the_modules_affair():
    norm = nn.BatchNorm2d(3).eval()
    assert batch_norm_act(torch.randn(0, 3, 4, 4), norm, "mish").shape == (0, 3, 4, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_opcheck(memory_format, dtype):
    x = torch.randn(2, 5, 3, 7).to(dtype).contiguous(memory_format=memory_format)
    mean, invstd = ops.bn_stats(x, None, None, 0.1, 1e-5)
    weight, bias = (torch.rand_like(mean).requires_grad_() for _ in range(2))
    leaf, grad = x.clone().requires_grad_(), torch.randn_like(x).requires_grad_()
    torch.library.opcheck(ops.bn_stats.default, (x, torch.zeros_like(mean), torch.ones_like(mean), 0.1, 1e-5))
    torch.library.opcheck(ops.bn_act.default, (leaf, mean, invstd, weight, bias, 0, True))
    torch.library.opcheck(ops.bn_act_backward.default, (grad, leaf, mean, invstd, weight, bias, 0, True))
    torch.library.opcheck(ops.bias_act_.default, (x, bias.detach(), 0))


def test_vmap():
    x, norm = torch.randn(3, 2, 4, 5, 5), norm_of(4).eval()
    wanted = torch.stack([batch_norm_act(member, norm, "mish") for member in x])
    torch.testing.assert_close(torch.vmap(lambda member: batch_norm_act(member, norm, "mish"))(x), wanted)
    mean, invstd = norm.running_mean, (norm.running_var + norm.eps).rsqrt()
    batched = torch.vmap(lambda member: ops.bn_act(member, mean, invstd, norm.weight, norm.bias, 0, False))(x)
    torch.testing.assert_close(batched, wanted)


def test_compiled_and_exported_networks_take_the_native_path():
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm_of(4).eval()

        def forward(self, x: Tensor) -> Tensor:
            return batch_norm_act(x, self.norm, "mish")

    layer, x = Layer(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))
        program = torch.export.export(layer, (x,))
    assert "aten.mish.default" in str(program.graph) and "yolov4_mish" not in str(program.graph)


@pytest.mark.parametrize(
    "activation, grad, found", [("mish", False, True), ("mish", True, False), ("leaky", False, False)]
)
def test_compiled_inference_on_a_cpu_calls_the_fused_mish(activation, grad, found):
    graphs = []

    def keep(graph, inputs):
        graphs.append(str(graph.graph))
        return graph.forward

    def tail(x: Tensor) -> Tensor:
        return bias_act(x + 1, None, activation, inplace=True)

    x = torch.randn(2, 8, 5, 5).to(memory_format=torch.channels_last).requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(torch.compile(tail, backend=keep, fullgraph=True)(x), tail(x))
    assert len(graphs) == 1 and ("yolov4_mish.bias_act_" in graphs[0]) is found
    try:
        set_ops("native")
        torch.compiler.reset()
        with torch.no_grad():
            torch.compile(tail, backend=keep, fullgraph=True)(x.detach())
    finally:
        set_ops("auto")
        torch.compiler.reset()
    assert "yolov4_mish" not in graphs[1]


# --- bias and activation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_act(activation, memory_format, dtype):
    x = torch.randn(3, 21, 6, 7).to(dtype).contiguous(memory_format=memory_format)
    bias = torch.randn(21)
    truth = native.activate(x.double() + bias.double().view(1, -1, 1, 1), activation)
    y = bias_act(x.clone(memory_format=torch.preserve_format), bias, activation, inplace=True)
    tolerance = max(2 * torch.finfo(dtype).eps, 1e-14)
    torch.testing.assert_close(y.double(), truth, rtol=tolerance, atol=tolerance)
    assert y.dtype == dtype and y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_rounded_as_torch_rounds_them(cpu_kernels, dtype):
    bits = torch.randint(-(2**31), 2**31, (60_000,), dtype=torch.int64)
    ties = (bits & ~0xFFFF) | 0x8000  # halfway between two bf16
    half_ties = (bits & ~0x1FFF) | 0x1000  # and between two fp16
    small = (bits & 0x83FFFFFF) | 0x33000000  # where fp16 is denormal
    values = torch.cat((bits, ties, half_ties, small, small & ~0x1FFF)).to(torch.int32).view(torch.float32)
    values[:4] = torch.tensor([65519.996, 65520.0, -65520.0, 2.0**-25])
    found = bias_act(torch.zeros(2, values.numel(), dtype=dtype), values, "linear", inplace=True)
    wanted = (values + 0.0).to(dtype)
    if cpu_kernels == "avx512bf16" and dtype == torch.bfloat16:  # the processor's instruction has no denormals
        wanted[values.abs() < torch.finfo(torch.float32).tiny] = 0
    torch.testing.assert_close(found[1], wanted, rtol=0, atol=0, equal_nan=True)


def test_bias_act_writes_over_its_input_only_when_allowed():
    x, bias = torch.randn(2, 4, 3, 3), torch.randn(4)
    before = x.clone()
    fresh = bias_act(x, bias, "mish")
    assert torch.equal(x, before)
    for tensor in (x.requires_grad_(), torch.randn(2, 4, 3, 3)[:, :, ::2]):
        kept = tensor.detach().clone()
        bias_act(tensor, None, "mish", inplace=True)
        assert torch.equal(tensor.detach(), kept) or not tensor.is_contiguous()
    x = before.clone()
    y = bias_act(x, bias, "mish", inplace=True)
    assert y.data_ptr() == x.data_ptr()
    torch.testing.assert_close(y, fresh)


@pytest.mark.parametrize("activation", NAMES)
def test_bias_act_gradient(activation):
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, b: bias_act(x * 1, b, activation, inplace=True), (x, bias))
    torch.autograd.gradcheck(lambda x: bias_act(x * 1, None, activation, inplace=True), (x,))
