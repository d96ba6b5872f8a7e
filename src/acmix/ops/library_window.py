"""`acmix::window_attention` and its backward as torch operators."""

from typing import Any

import torch
from torch import Tensor

from acmix.ops.flop_formulas import register_flop_formula
from acmix.ops.impl.torch.window_attention import Windows, window_attention, window_attention_backward
from acmix.ops.library import LIBRARY, or_empty, pull_back, register_decomposition, register_kernel, vmap_by_loop

__all__ = ["window_attention_op"]

_INPUTS = "Tensor qkv, Tensor bias, Tensor? outside, int rows, int columns, int down, int right"
LIBRARY.define(f"window_attention({_INPUTS}) -> Tensor")
LIBRARY.define(f"window_attention_backward(Tensor grad, {_INPUTS}) -> (Tensor, Tensor, Tensor)")
_FORWARD = torch.ops.acmix.window_attention.default
_BACKWARD = torch.ops.acmix.window_attention_backward.default

Gradients = tuple[Tensor | None, ...]


def _windows(rows: int, columns: int, down: int, right: int) -> Windows:
    return Windows((rows, columns), (down, right))


def _forward(qkv: Tensor, bias: Tensor, outside: Tensor | None, *options: Any) -> Tensor:
    return window_attention(qkv, bias, outside, _windows(*options))


def _forward_fake(qkv: Tensor, bias: Tensor, outside: Tensor | None, *options: Any) -> Tensor:
    batch, height, width, channels, _ = qkv.shape
    return qkv.new_empty((batch, height, width, bias.shape[0] * channels))


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _forward_gradient(ctx: Any, grad: Tensor) -> Gradients:
    saved = ctx.saved_tensors  # read once: checkpointing unpacks each tensor a single time
    grad_qkv, grad_bias, grad_outside = _BACKWARD(grad, *saved, *ctx.options)
    no_others = (None,) * len(ctx.options)
    return grad_qkv, grad_bias, None if saved[2] is None else grad_outside, *no_others


def _backward(grad: Tensor, qkv: Tensor, bias: Tensor, outside: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
    grad_qkv, grad_bias, grad_outside = window_attention_backward(grad, qkv, bias, outside, _windows(*options))
    return grad_qkv, grad_bias, or_empty(grad_outside, qkv)


def _backward_fake(
    grad: Tensor, qkv: Tensor, bias: Tensor, outside: Tensor | None, *options: Any
) -> tuple[Tensor, ...]:
    grad_outside = None if outside is None else outside.new_empty(outside.shape)
    return qkv.new_empty(qkv.shape), bias.new_empty(bias.shape), or_empty(grad_outside, qkv)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    del output
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward_gradient(ctx: Any, *grads: Tensor) -> Gradients:
    """The second derivative: the backward pass is made of differentiable functions, and so is this."""
    windows = _windows(*ctx.options)

    def graph(grad: Tensor, qkv: Tensor, bias: Tensor, outside: Tensor | None) -> Gradients:
        return window_attention_backward(grad, qkv, bias, outside, windows)

    no_others = (None,) * len(ctx.options)
    return (*pull_back(graph, ctx.saved_tensors, grads), *no_others)


def _forward_vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    return vmap_by_loop(_FORWARD, info.batch_size, in_dims, arguments)


def _backward_vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    return vmap_by_loop(_BACKWARD, info.batch_size, in_dims, arguments)


def _flops(qkv_shape: Any, rows: int, columns: int) -> int:
    """Two products, of queries with keys and of weights with values, within whole windows."""
    batch, height, width, channels, pieces = qkv_shape
    windows, area = -(-height // rows) * -(-width // columns), rows * columns
    return int(2 * 2 * batch * windows * area**2 * channels * pieces // 3)


def _forward_flops(qkv_shape: Any, bias_shape: Any, outside_shape: Any, *options: Any, out_shape: Any) -> int:
    return _flops(qkv_shape, *options[:2])


def _backward_flops(grad_shape: Any, qkv_shape: Any, *rest: Any, out_shape: Any) -> int:
    """Five products instead of two: the logits again, then the gradients of weights, values, queries and keys."""
    return _flops(qkv_shape, *rest[2:4]) * 5 // 2


register_kernel("window_attention", _forward)
register_kernel("window_attention_backward", _backward)
torch.library.register_fake(_FORWARD, _forward_fake)
torch.library.register_fake(_BACKWARD, _backward_fake)
torch.library.register_autograd(_FORWARD, _forward_gradient, setup_context=_forward_setup)
torch.library.register_autograd(_BACKWARD, _backward_gradient, setup_context=_backward_setup)
torch.library.register_vmap(_FORWARD, _forward_vmap)
torch.library.register_vmap(_BACKWARD, _backward_vmap)
register_decomposition(_FORWARD, _forward, _forward_fake)
register_flop_formula(torch.ops.acmix.window_attention, _forward_flops)
register_flop_formula(torch.ops.acmix.window_attention_backward, _backward_flops)


def window_attention_op(*arguments: Any) -> Tensor:
    """Call `acmix::window_attention`."""
    out: Tensor = torch.ops.acmix.window_attention(*arguments)
    return out
