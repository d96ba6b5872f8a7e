"""The ops as torch sees them: schema, kernels, fake kernels, autograd, FLOP formulas, vmap.

Registered here so that `torch.compile(fullgraph=True)`, `torch.export`, the FLOP counter and functorch see one node each.
The kernels only look up the backend that the door has chosen.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from acmix.ops.dispatch import load_backend
from acmix.ops.geometry import output_size
from acmix.ops.impl.torch.attention_graph import attention_backward_graph
from acmix.ops.impl.torch.convolution import convolution_path_backward as convolution_backward_graph
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.layout import compute_dtype, empty_attention_output, is_channels_last

__all__ = ["convolution_path_op", "local_attention_op"]

_LIBRARY = torch.library.Library("acmix", "DEF")
_WINDOW = "int kernel_size, int stride, int dilation, float scale, str impl"
_LIBRARY.define(f"local_attention(Tensor q, Tensor k, Tensor v, Tensor? position, {_WINDOW}) -> (Tensor, Tensor)")
_LIBRARY.define(
    "local_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? position, Tensor? out, Tensor? lse, "
    f"{_WINDOW}) -> (Tensor, Tensor, Tensor, Tensor)"
)
_WEIGHTS = "Tensor fc_weight, Tensor shift_weight, Tensor? fc_bias"
_SHIFT = "int stride, int dilation, str form, str impl"
_LIBRARY.define(f"convolution_path(Tensor pieces, {_WEIGHTS}, {_SHIFT}) -> Tensor")
_LIBRARY.define(
    f"convolution_path_backward(Tensor grad, Tensor pieces, {_WEIGHTS}, {_SHIFT}) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _kernel(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return torch.library.impl(_LIBRARY, name, "CompositeExplicitAutograd")


def _or_empty(x: Tensor | None, like: Tensor) -> Tensor:
    """A schema has no optional results: an absent gradient is an empty tensor."""
    return like.new_empty(0) if x is None else x


# --- window attention -------------------------------------------------------------------------------------------


@_kernel("local_attention")
def _attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
    *window, impl = options
    out, lse = load_backend(impl).local_attention(q, k, v, position, Window(*window))
    return out, lse


@_kernel("local_attention_backward")
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    out: Tensor | None,
    lse: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del out, lse  # for backends that do not compute the softmax's sums again
    *window, impl = options
    backward = load_backend(impl).local_attention_backward
    grad_q, grad_k, grad_v, grad_position = backward(grad, (q, k, v), position, Window(*window))
    return grad_q, grad_k, grad_v, _or_empty(grad_position, q)


@torch.library.register_fake("acmix::local_attention")
def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, kernel_size: int, stride: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    out = empty_attention_output(q, stride)
    lse = q.new_empty((*q.shape[:2], *out.shape[3:]), dtype=compute_dtype(q.dtype))
    return out, lse


@torch.library.register_fake("acmix::local_attention_backward")
def _attention_backward_fake(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    position = None if position is None else position.new_empty(position.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), _or_empty(position, q)


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, position, *options = inputs
    out, lse = output
    ctx.options = options
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(lse)
    # A backend that computes the softmax's sums again reads neither; keeping them would only hold memory.
    kept = (out, lse) if load_backend(options[-1]).BACKWARD_READS_OUTPUT else (None, None)
    ctx.save_for_backward(q, k, v, position, *kept)


def _attention_gradient(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    del grad_lse  # not differentiable
    q, k, v, position, out, lse = ctx.saved_tensors
    nothing = (None,) * len(ctx.options)
    if grad is None:
        return (None, None, None, None, *nothing)
    *window, _ = ctx.options
    if torch.is_grad_enabled():
        grads = attention_backward_graph(grad, (q, k, v), position, Window(*window))
        return (*grads, *nothing)
    op = torch.ops.acmix.local_attention_backward
    grad_q, grad_k, grad_v, grad_position = op(grad, q, k, v, position, out, lse, *ctx.options)
    return (grad_q, grad_k, grad_v, None if position is None else grad_position, *nothing)


torch.library.register_autograd("acmix::local_attention", _attention_gradient, setup_context=_attention_setup)


def _attention_flops(q_shape: Any, kernel_size: int, stride: int) -> int:
    """Two products, of queries with keys and of weights with values, over K * K keys a query."""
    batch, heads, width, height, columns = q_shape
    queries = output_size(height, stride) * output_size(columns, stride)
    return int(2 * 2 * batch * heads * width * queries * kernel_size**2)


@register_flop_formula(torch.ops.acmix.local_attention)
def _attention_flop_formula(
    q_shape: Any, k_shape: Any, v_shape: Any, position_shape: Any, kernel_size: int, stride: int, *rest: Any, **kw: Any
) -> int:
    return _attention_flops(q_shape, kernel_size, stride)


@register_flop_formula(torch.ops.acmix.local_attention_backward)
def _attention_backward_flop_formula(
    grad_shape: Any,
    q_shape: Any,
    k_shape: Any,
    v_shape: Any,
    position_shape: Any,
    out_shape: Any,
    lse_shape: Any,
    *options: Any,
    **kw: Any,
) -> int:
    # Five products instead of two: the logits again, then the gradients of weights, values, queries and keys.
    return _attention_flops(q_shape, options[0], options[1]) * 5 // 2


# --- the convolution path ----------------------------------------------------------------------------------------


@_kernel("convolution_path")
def _convolution(
    pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *options: Any
) -> Tensor:
    stride, dilation, form, impl = options
    weights = (fc_weight, shift_weight, fc_bias)
    out: Tensor = load_backend(impl).convolution_path(pieces, weights, stride, dilation, form)
    return out


@_kernel("convolution_path_backward")
def _convolution_backward(
    grad: Tensor, pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stride, dilation, form, impl = options
    weights = (fc_weight, shift_weight, fc_bias)
    backward = load_backend(impl).convolution_path_backward
    grad_pieces, grad_fc, grad_shift, grad_bias = backward(grad, pieces, weights, stride, dilation, form)
    return grad_pieces, grad_fc, grad_shift, _or_empty(grad_bias, fc_weight)


@torch.library.register_fake("acmix::convolution_path")
def _convolution_fake(
    pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, stride: int, *rest: Any
) -> Tensor:
    height, width = (output_size(size, stride) for size in pieces.shape[3:])
    out = pieces.new_empty((pieces.shape[0], shift_weight.shape[0], height, width))
    return out.to(memory_format=torch.channels_last) if is_channels_last(pieces) else out


@torch.library.register_fake("acmix::convolution_path_backward")
def _convolution_backward_fake(
    grad: Tensor, pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias = None if fc_bias is None else fc_bias.new_empty(fc_bias.shape)
    weights = fc_weight.new_empty(fc_weight.shape), shift_weight.new_empty(shift_weight.shape)
    return pieces.new_empty(pieces.shape), *weights, _or_empty(bias, fc_weight)


def _convolution_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, stride, dilation, form, impl = inputs
    ctx.options = stride, dilation, form, impl
    ctx.save_for_backward(*tensors)


def _convolution_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    pieces, fc_weight, shift_weight, fc_bias = ctx.saved_tensors
    nothing = (None,) * len(ctx.options)
    if torch.is_grad_enabled():
        weights = fc_weight, shift_weight, fc_bias
        return (*convolution_backward_graph(grad, pieces, weights, *ctx.options[:-1]), *nothing)
    op = torch.ops.acmix.convolution_path_backward
    *grads, grad_bias = op(grad, pieces, fc_weight, shift_weight, fc_bias, *ctx.options)
    return (*grads, None if fc_bias is None else grad_bias, *nothing)


torch.library.register_autograd("acmix::convolution_path", _convolution_gradient, setup_context=_convolution_setup)


def _convolution_flops(pieces_shape: Any, shift_shape: Any, stride: int) -> int:
    """FC at the input's size and group convolution at the output's: the two-step form, whichever form runs."""
    batch, groups, pieces, height, width = pieces_shape
    channels, maps, kernel, _ = shift_shape
    outputs = output_size(height, stride) * output_size(width, stride)
    return int(2 * batch * (groups * pieces * maps * height * width + channels * maps * kernel**2 * outputs))


@register_flop_formula(torch.ops.acmix.convolution_path)
def _convolution_flop_formula(
    pieces_shape: Any, fc_shape: Any, shift_shape: Any, bias_shape: Any, stride: int, *rest: Any, **kw: Any
) -> int:
    return _convolution_flops(pieces_shape, shift_shape, stride)


@register_flop_formula(torch.ops.acmix.convolution_path_backward)
def _convolution_backward_flop_formula(
    grad_shape: Any,
    pieces_shape: Any,
    fc_shape: Any,
    shift_shape: Any,
    bias_shape: Any,
    stride: int,
    *r: Any,
    **kw: Any,
) -> int:
    return 2 * _convolution_flops(pieces_shape, shift_shape, stride)


def local_attention_op(*arguments: Any) -> Tensor:
    """Call `acmix::local_attention` and keep its output."""
    out, _ = torch.ops.acmix.local_attention(*arguments)
    return out


def convolution_path_op(*arguments: Any) -> Tensor:
    """Call `acmix::convolution_path`."""
    out: Tensor = torch.ops.acmix.convolution_path(*arguments)
    return out
