"""Tell torch.library about the fused operators: schemas, shapes, derivatives, batching.

The kernels come later, from the libraries that ``extension`` loads, one for each kind of device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import native

NAMESPACE = "yolov4_mish"

_library = torch.library.Library(NAMESPACE, "DEF")
for _schema in (
    "mish(Tensor x) -> Tensor",
    "mish_backward(Tensor grad, Tensor x) -> Tensor",
    "mish_double_backward(Tensor v, Tensor grad, Tensor x) -> (Tensor, Tensor)",
    "bn_stats(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, float eps)"
    " -> (Tensor, Tensor)",
    "bn_act(Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, int activation, bool training)"
    " -> Tensor",
    "bn_act_backward(Tensor grad, Tensor x, Tensor mean, Tensor invstd, Tensor? weight, Tensor? bias, int activation,"
    " bool training) -> (Tensor, Tensor, Tensor)",
    "bias_act_(Tensor(a!) x, Tensor? bias, int activation) -> ()",
    "conv_act(Tensor x, Tensor weights, Tensor? bias, Tensor? added, int filters, int kernel, int stride, int padding,"
    " int activation) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
_library.define("conv_pack(Tensor weights) -> Tensor")  # before anything is compiled, so that it needs no fake

ops = getattr(torch.ops, NAMESPACE)

below_autograd = torch._C._AutoDispatchBelowAutograd
"""For calls that need no gradient: the derivatives below are Python, and asking them for nothing takes 4 of a call's
7 microseconds."""


def _name(operator: str) -> str:
    return f"{NAMESPACE}::{operator}"


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the arithmetic: float64 for itself, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32


# --- shapes ---------------------------------------------------------------------------------------------------


def _channels_innermost(x: Tensor) -> bool:
    order = [1, *range(x.dim() - 1, 1, -1), 0]
    expected = 1
    for d in order:
        if x.size(d) > 1 and x.stride(d) != expected:
            return False
        expected *= x.size(d)
    return True


def _like_features(x: Tensor) -> Tensor:
    """The kernels keep channels_last and make anything else contiguous."""
    if x.is_contiguous() or not _channels_innermost(x):
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    return torch.empty_like(x)


def _channel_values(x: Tensor) -> Tensor:
    return x.new_empty((x.size(1),), dtype=compute_dtype(x.dtype))


def _convolved(x, weights, bias, added, filters, kernel, stride, padding, activation) -> Tensor:
    height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
    shape = (x.size(0), filters, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


_FAKES = {
    "mish": lambda x: torch.empty_like(x),
    "mish_backward": lambda grad, x: torch.empty_like(x),
    "mish_double_backward": lambda v, grad, x: (torch.empty_like(x), torch.empty_like(x)),
    "bn_stats": lambda x, *_: (_channel_values(x), _channel_values(x)),
    "bn_act": lambda x, *_: _like_features(x),
    "bn_act_backward": lambda grad, x, *_: (_like_features(x), _channel_values(x), _channel_values(x)),
    "bias_act_": lambda x, bias, activation: None,
    "conv_act": _convolved,
}
for _operator, _fake in _FAKES.items():
    torch.library.register_fake(_name(_operator), _fake, lib=_library)  # type: ignore[arg-type]  # called "function"


# --- derivatives ----------------------------------------------------------------------------------------------


def _save_all(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _once_only(operator, *arguments):
    """Call an operator of a backward pass; its own derivative is prepared only where ``create_graph`` wants it."""
    if torch.is_grad_enabled():
        return operator(*arguments)
    with below_autograd():
        return operator(*arguments)


def _mish_grad(ctx, grad):
    return _once_only(ops.mish_backward, grad, *ctx.saved_tensors)


def _mish_grad_grad(ctx, v):
    return _once_only(ops.mish_double_backward, v, *ctx.saved_tensors)


def _bn_act_save(ctx, inputs, output) -> None:
    *tensors, ctx.activation, ctx.training = inputs
    ctx.save_for_backward(*tensors)


def _bn_act_grad(ctx, grad):
    """Gradients for x, weight and bias; mean and invstd are functions of x, or constants."""
    x, mean, invstd, weight, bias = ctx.saved_tensors
    arguments = (grad, x, mean, invstd, weight, bias, ctx.activation, ctx.training)
    grads = _once_only(ops.bn_act_backward, *arguments)
    return (
        grads[0] if ctx.needs_input_grad[0] else None,
        None,
        None,
        grads[1] if weight is not None else None,
        grads[2] if bias is not None else None,
        None,
        None,
    )


def _bn_act_grad_grad(ctx, *directions):
    """Differentiate the backward pass by recomputing it in tensor operations: rare, so clear before fast."""
    grad, x, mean, invstd, weight, bias = ctx.saved_tensors
    gamma = torch.ones_like(mean) if weight is None else weight
    beta = torch.zeros_like(mean) if bias is None else bias
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (grad, x, gamma, beta)]
        y = native.normalise_and_activate(leaves[1], mean, invstd, leaves[2], leaves[3], ctx.activation, ctx.training)
        first = torch.autograd.grad(y, leaves[1:], leaves[0], create_graph=True)
        directions = [  # type: ignore[assignment]  # takes the place of the arguments
            torch.zeros_like(g) if v is None else v.to(g.dtype) for v, g in zip(directions, first, strict=True)
        ]
        second = torch.autograd.grad(first, leaves, directions, allow_unused=True)
    return (
        second[0],
        second[1],
        None,
        None,
        second[2] if weight is not None else None,
        second[3] if bias is not None else None,
        None,
        None,
    )


for _operator, _backward, _setup in (
    ("mish", _mish_grad, _save_all),
    ("mish_backward", _mish_grad_grad, _save_all),
    ("bn_act", _bn_act_grad, _bn_act_save),
    ("bn_act_backward", _bn_act_grad_grad, _bn_act_save),
):
    torch.library.register_autograd(_name(_operator), _backward, setup_context=_setup, lib=_library)


# --- vmap -----------------------------------------------------------------------------------------------------


def _batched_pointwise(operator: str):
    """Elementwise operators only need every argument to carry the batch in front."""

    def rule(info, in_dims, *tensors):
        moved = [
            t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors, in_dims, strict=True)
        ]
        result = getattr(ops, operator)(*moved)
        return result, tuple(0 for _ in result) if isinstance(result, tuple) else 0

    return rule


def _batched_in_turn(operator: str):
    """Batch norm takes the members of the batch one after the other."""

    def rule(info, in_dims, *arguments):
        members = []
        for i in range(info.batch_size):
            one = [a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims, strict=True)]
            members.append(getattr(ops, operator)(*one))
        if not isinstance(members[0], tuple):
            return torch.stack(members), 0
        return tuple(torch.stack(parts) for parts in zip(*members, strict=True)), (0,) * len(members[0])

    return rule


for _operator in ("mish", "mish_backward", "mish_double_backward"):
    torch.library.register_vmap(_name(_operator), _batched_pointwise(_operator), lib=_library)
for _operator in ("bn_stats", "bn_act", "bn_act_backward"):
    torch.library.register_vmap(_name(_operator), _batched_in_turn(_operator), lib=_library)
