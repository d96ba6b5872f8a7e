"""`acmix::convolution_path` and its backward as torch operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl.torch.convolution import convolution_path_backward
from acmix.ops.layout import as_pieces, as_pieces_output, empty_pieces, empty_pieces_output
from acmix.ops.library import vmap_by_loop
from acmix.ops.library_pair import OpPair, register_pair

__all__ = ["convolution_path_op"]

Gradients = tuple[Tensor | None, ...]


def _call(
    function: Callable[..., Any], pieces: Tensor, fc: Tensor, shift: Tensor, bias: Tensor | None, *rest: Any
) -> Any:
    result = function(pieces, (fc, shift, bias), *rest)
    if isinstance(result, Tensor):
        return as_pieces_output(result, pieces)
    grad_pieces, *grad_weights = result
    return as_pieces(grad_pieces, pieces), *(None if x is None else x.contiguous() for x in grad_weights)


def _fake(
    pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, stride: int, *rest: Any
) -> Tensor:
    return empty_pieces_output(pieces, shift_weight.shape[0], stride)


def _backward_fake(
    pieces: Tensor, fc_weight: Tensor, shift_weight: Tensor, fc_bias: Tensor | None, *rest: Any
) -> Gradients:
    weights = (None if x is None else x.new_empty(x.shape) for x in (fc_weight, shift_weight, fc_bias))
    return empty_pieces(pieces), *weights


def _plain_backward(
    grad: Tensor, pieces: Tensor, fc: Tensor, shift: Tensor, bias: Tensor | None, *options: Any
) -> Gradients:
    return convolution_path_backward(grad, pieces, (fc, shift, bias), *options)


def _vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
    pieces, *rest = arguments
    op = torch.ops.acmix.convolution_path.default
    if any(dim is not None for dim in in_dims[1:]):
        return vmap_by_loop(op, info.batch_size, in_dims, arguments)
    pieces = pieces.movedim(in_dims[0], 0)
    out = op(pieces.flatten(0, 1), *rest)
    return out.reshape(*pieces.shape[:2], *out.shape[1:]), 0


def _flops(
    pieces_shape: Any, fc_shape: Any, shift_shape: Any, bias_shape: Any, stride: int, *rest: Any, out_shape: Any
) -> int:
    """FC at the input's size and group convolution at the output's: the two-step form, whichever form runs."""
    batch, groups, pieces, height, width = pieces_shape
    channels, maps, kernel, _ = shift_shape
    outputs = output_size(height, stride) * output_size(width, stride)
    return int(2 * batch * (groups * pieces * maps * height * width + channels * maps * kernel**2 * outputs))


convolution_path_op: Callable[..., Tensor] = register_pair(
    OpPair(
        name="convolution_path",
        tensors="Tensor pieces, Tensor fc_weight, Tensor shift_weight, Tensor? fc_bias",
        options="int stride, int dilation, str form",
        call=_call,
        fake=_fake,
        backward_fake=_backward_fake,
        plain_backward=_plain_backward,
        flops=_flops,
        vmap=_vmap,
    )
)
