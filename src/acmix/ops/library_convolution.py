"""`acmix::convolution_path` and its backward as torch operators."""

from typing import Any

import torch
from torch import Tensor

from acmix.ops.dispatch import load_backend
from acmix.ops.flop_formulas import register_flop_formula
from acmix.ops.geometry import output_size
from acmix.ops.impl.torch.convolution import convolution_path as forward_graph
from acmix.ops.impl.torch.convolution import convolution_path_backward as backward_graph
from acmix.ops.layout import as_pieces, as_pieces_output, empty_pieces, empty_pieces_output
from acmix.ops.library import LIBRARY, or_empty, pull_back, register_decomposition, register_kernel, vmap_by_loop

__all__ = ["convolution_path_op"]

_INPUTS = "Tensor pieces, Tensor fc_weight, Tensor shift_weight, Tensor? fc_bias"
_OPTIONS = "int stride, int dilation, str form, str impl"
LIBRARY.define(f"convolution_path({_INPUTS}, {_OPTIONS}) -> Tensor")
LIBRARY.define(f"convolution_path_backward(Tensor grad, {_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)")
_FORWARD = torch.ops.acmix.convolution_path.default
_BACKWARD = torch.ops.acmix.convolution_path_backward.default

Gradients = tuple[Tensor | None, ...]


def _forward(pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *options: Any) -> Tensor:
    *rest, impl = options
    out = load_backend(impl).convolution_path(pieces, (fc_weight, shift_weight, fc_bias), *rest)
    return as_pieces_output(out, pieces)


def _forward_fake(
    pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, stride: int, *rest: Any
) -> Tensor:
    return empty_pieces_output(pieces, shift_weight.shape[0], stride)


def _decomposed(
    pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *options: Any
) -> Tensor:
    """The op as plain functions, for ONNX, which has none of ours."""
    return forward_graph(pieces, (fc_weight, shift_weight, fc_bias), *options[:-1])


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _forward_gradient(ctx: Any, grad: Tensor) -> Gradients:
    saved = ctx.saved_tensors  # read once: checkpointing unpacks each tensor a single time
    *grads, grad_bias = _BACKWARD(grad, *saved, *ctx.options)
    no_bias = saved[3] is None
    return (*grads, None if no_bias else grad_bias, *(None,) * len(ctx.options))


def _backward(
    grad: Tensor, pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *rest, impl = options
    backward = load_backend(impl).convolution_path_backward
    grads = backward(grad, pieces, (fc_weight, shift_weight, fc_bias), *rest)
    grad_pieces, grad_fc, grad_shift, grad_bias = grads
    weights = grad_fc.contiguous(), grad_shift.contiguous()
    return as_pieces(grad_pieces, pieces), *weights, or_empty(grad_bias, fc_weight)


def _backward_fake(
    grad: Tensor, pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias = None if fc_bias is None else fc_bias.new_empty(fc_bias.shape)
    weights = fc_weight.new_empty(fc_weight.shape), shift_weight.new_empty(shift_weight.shape)
    return empty_pieces(pieces), *weights, or_empty(bias, fc_weight)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    del output
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[5:]


def _backward_gradient(ctx: Any, *grads: Tensor) -> Gradients:
    """The second derivative: the backward pass is made of differentiable functions, and so is this."""
    *options, _ = ctx.options

    def graph(grad: Tensor, pieces: Tensor, fc: Tensor, shift: Tensor, bias: Tensor | None) -> Gradients:
        return backward_graph(grad, pieces, (fc, shift, bias), *options)

    no_others = (None,) * len(ctx.options)
    return (*pull_back(graph, ctx.saved_tensors, grads), *no_others)


def _forward_vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    pieces, *rest = arguments
    if any(dim is not None for dim in in_dims[1:]):
        return vmap_by_loop(_FORWARD, info.batch_size, in_dims, arguments)
    pieces = pieces.movedim(in_dims[0], 0)
    out = _FORWARD(pieces.flatten(0, 1), *rest)
    return out.reshape(*pieces.shape[:2], *out.shape[1:]), 0


def _backward_vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    # The weights' gradients are one for each member: nothing to fold into the batch.
    return vmap_by_loop(_BACKWARD, info.batch_size, in_dims, arguments)


def _flops(pieces_shape: Any, shift_shape: Any, stride: int) -> int:
    """FC at the input's size and group convolution at the output's: the two-step form, whichever form runs."""
    batch, groups, pieces, height, width = pieces_shape
    channels, maps, kernel, _ = shift_shape
    outputs = output_size(height, stride) * output_size(width, stride)
    return int(2 * batch * (groups * pieces * maps * height * width + channels * maps * kernel**2 * outputs))


def _forward_flops(
    pieces_shape: Any, fc_shape: Any, shift_shape: Any, bias_shape: Any, *options: Any, out_shape: Any
) -> int:
    return _flops(pieces_shape, shift_shape, options[0])


def _backward_flops(
    grad_shape: Any, pieces_shape: Any, fc_shape: Any, shift_shape: Any, *rest: Any, out_shape: Any
) -> int:
    """Gradients of the inputs and of the weights cost one forward pass each."""
    return 2 * _flops(pieces_shape, shift_shape, rest[1])


register_kernel("convolution_path", _forward)
register_kernel("convolution_path_backward", _backward)
torch.library.register_fake(_FORWARD, _forward_fake)
torch.library.register_fake(_BACKWARD, _backward_fake)
torch.library.register_autograd(_FORWARD, _forward_gradient, setup_context=_forward_setup)
torch.library.register_autograd(_BACKWARD, _backward_gradient, setup_context=_backward_setup)
torch.library.register_vmap(_FORWARD, _forward_vmap)
torch.library.register_vmap(_BACKWARD, _backward_vmap)
register_decomposition(_FORWARD, _decomposed, _forward_fake)
register_flop_formula(torch.ops.acmix.convolution_path, _forward_flops)
register_flop_formula(torch.ops.acmix.convolution_path_backward, _backward_flops)


def convolution_path_op(*arguments: Any) -> Tensor:
    """Call `acmix::convolution_path`."""
    out: Tensor = torch.ops.acmix.convolution_path(*arguments)
    return out
