"""`acmix::layer`, both stages of the layer at once, and its backward pass as torch operators."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl import cpu
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow
from acmix.ops.impl.torch.attention_graph import attention_graph
from acmix.ops.impl.torch.convolution import convolution_path
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.library import Rules, or_empty, pull_back, register

__all__ = ["layer_backward_op", "layer_op", "of_parameters"]

Gradients = tuple[Tensor | None, ...]

_COUNT = len(LayerInputs._fields)
_TENSORS = (
    "Tensor x, Tensor query, Tensor key, Tensor value, Tensor? query_bias, Tensor? key_bias, Tensor? value_bias, "
    "Tensor? position_weight, Tensor? position_bias, Tensor? grid, Tensor? fc_weight, Tensor? fc_rate, "
    "Tensor? shift_weight, Tensor? rate"
)
_OPTIONS = "int heads, int kernel_size, int stride, int dilation"


def _plain(*arguments: Any) -> Tensor:
    """The layer as differentiable torch functions."""
    inputs, window = LayerInputs(*arguments[:_COUNT]), LayerWindow(*arguments[_COUNT : _COUNT + 4])
    weight = torch.cat([inputs.query, inputs.key, inputs.value])
    biases = [bias for bias in (inputs.query_bias, inputs.key_bias, inputs.value_bias) if bias is not None]
    heads = (3, window.heads, weight.shape[0] // (3 * window.heads))
    projected = F.conv2d(inputs.x, weight, torch.cat(biases) if biases else None).unflatten(1, heads)
    paths = []
    if window.kernel_size:
        q, k, v = projected.unbind(1)
        tiles = Window(window.kernel_size, window.stride, window.dilation, inputs.scale(window))
        attention = attention_graph(q, k, v, inputs.code(), tiles).flatten(1, 2)
        paths.append(attention if inputs.rate is None else attention * inputs.rate)
    mix = inputs.mix()
    if mix is not None and inputs.shift_weight is not None:
        pieces = projected.flatten(1, 2).transpose(1, 2)
        weights = mix, inputs.shift_weight, None
        paths.append(convolution_path(pieces, weights, window.stride, window.dilation, "composed"))
    return sum(paths[1:], paths[0])


def _plain_backward(grad: Tensor, *arguments: Any) -> Gradients:
    window = arguments[_COUNT:]

    def forward(*inputs: Tensor | None) -> tuple[Tensor]:
        return (_plain(*inputs, *window),)

    return tuple(pull_back(forward, arguments[:_COUNT], (grad,)))


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs, window = LayerInputs(*arguments[:_COUNT]), LayerWindow(*arguments[_COUNT:-1])
    out, projected = cpu.layer(inputs, window, arguments[-1])
    return out, or_empty(projected, inputs.x)


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    inputs, window = LayerInputs(*arguments[:_COUNT]), LayerWindow(*arguments[_COUNT:-1])
    batch, _, height, width = inputs.x.shape
    channels = inputs.query.shape[0]
    size = (output_size(height, window.stride), output_size(width, window.stride))
    kept = (batch, 3, window.heads, channels // window.heads, height, width) if arguments[-1] else (0,)
    return inputs.x.new_empty((batch, channels, *size)), inputs.x.new_empty(kept)


def _forward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    projected = output[1]
    ctx.mark_non_differentiable(projected)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:_COUNT], projected)
    ctx.window = inputs[_COUNT:-1]


def _forward_gradient(ctx: Any, grad: Tensor | None, grad_projected: None) -> Gradients:
    del grad_projected  # not differentiable
    *inputs, projected = ctx.saved_tensors  # read once: checkpointing unpacks each tensor a single time
    options = (None,) * (len(ctx.window) + 1)
    if grad is None:
        return (None,) * _COUNT + options
    grads = of_parameters(layer_backward_op(grad, *inputs, projected, *ctx.window, ctx.needs_input_grad[0]))
    wanted = zip(ctx.needs_input_grad, inputs, grads, strict=False)
    return (*(None if x is None or not needed else grad_x for needed, x, grad_x in wanted), *options)


def of_parameters(grads: Iterable[Tensor | None], wants_x: bool = True) -> Gradients:
    """Gradients without the grid's, which is no parameter, and without x's where that is not wanted."""
    unwanted = ("grid",) if wants_x else ("grid", "x")
    return tuple(None if name in unwanted else grad for name, grad in zip(LayerInputs._fields, grads, strict=True))


def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs, window = LayerInputs(*arguments[:_COUNT]), LayerWindow(*arguments[_COUNT + 1 : -1])
    projected = arguments[_COUNT]
    kept = projected if projected.numel() else None
    grads = cpu.layer_backward(grad, inputs, kept, window, arguments[-1])
    return tuple(or_empty(x, inputs.x) for x in grads)


def _backward_fake(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    inputs, wants_x = LayerInputs(*arguments[:_COUNT]), arguments[-1]
    grads = of_parameters((None if x is None else x.new_empty(x.shape) for x in inputs), wants_x)
    return tuple(or_empty(x, inputs.x) for x in grads)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[: _COUNT + 1])
    ctx.window, ctx.wants_x = inputs[_COUNT + 2 : -1], inputs[-1]


def _backward_gradient(ctx: Any, *grads: Tensor) -> Gradients:
    """The second derivative, through the layer written as plain functions; itself differentiable."""

    def graph(grad: Tensor, *inputs: Tensor | None) -> Gradients:
        return of_parameters(_plain_backward(grad, *inputs, *ctx.window), ctx.wants_x)

    saved = ctx.saved_tensors
    wanted = of_parameters(saved[1:], ctx.wants_x)
    given = tuple(grad for grad, x in zip(grads, wanted, strict=True) if x is not None)
    pulled = pull_back(graph, saved, given)
    return (*pulled, None, *(None,) * (len(ctx.window) + 1))


class _Flops(NamedTuple):
    """Of the projections, the position code, attention, and the convolution path in two steps, whichever form runs."""

    projections: int
    code: int
    attention: int
    convolution: int


def _flops(inputs: tuple[Any, ...], window: tuple[int, ...]) -> _Flops:
    """From the shapes of the inputs."""
    shapes, (heads, kernel_size, stride, _) = LayerInputs(*inputs), window
    (batch, in_channels, height, width), channels = shapes.x, shapes.query[0]
    pixels, outputs = height * width, output_size(height, stride) * output_size(width, stride)
    projections = 2 * batch * 3 * channels * in_channels * pixels
    code = 0 if shapes.position_weight is None else 4 * channels // heads * pixels
    attention = 4 * batch * channels * outputs * kernel_size**2
    if shapes.fc_weight is None or shapes.shift_weight is None:
        return _Flops(projections, code, attention, 0)
    maps, pieces, kernel = shapes.fc_weight[0], shapes.fc_weight[1], shapes.shift_weight[3]
    mixed = channels // heads * pieces * maps * pixels
    return _Flops(projections, code, attention, 2 * batch * (mixed + channels * maps * kernel**2 * outputs))


def _forward_flops(*arguments: Any, out_shape: Any) -> int:
    return int(sum(_flops(arguments[:_COUNT], arguments[_COUNT:-1])))


def _backward_flops(*arguments: Any, out_shape: Any) -> int:
    """Attention takes five products for two, the code one, all else one for the inputs and one for the weights."""
    flops = _flops(arguments[1 : _COUNT + 1], arguments[_COUNT + 2 : -1])
    of_projections = flops.projections * (2 if arguments[-1] else 1)
    return int(of_projections + flops.code + flops.attention * 5 // 2 + 2 * flops.convolution)


layer_op = register(
    "layer",
    f"({_TENSORS}, {_OPTIONS}, bool keep) -> (Tensor, Tensor)",
    Rules(_forward, _forward_fake, _forward_setup, _forward_gradient, _forward_flops),
)
layer_backward_op = register(
    "layer_backward",
    f"(Tensor grad, {_TENSORS}, Tensor projected, {_OPTIONS}, bool wants_x) -> ({', '.join(['Tensor'] * _COUNT)})",
    Rules(_backward, _backward_fake, _backward_setup, _backward_gradient, _backward_flops),
)
