"""The sums over a window of patchwise attention as torch operators, each with its backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acmix.ops.flop_formulas import Formula
from acmix.ops.impl.torch import neighbourhood_graph as graphs
from acmix.ops.impl.torch.neighbourhood import as_map
from acmix.ops.library_pair import OpPair, register_pair

__all__ = ["neighbourhood_aggregate_op", "neighbourhood_project_op"]

Gradients = tuple[Tensor | None, ...]


def _fake_aggregate(weights: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return as_map(v.new_empty(v.shape), v)


def _fake_project(k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return as_map(k.new_empty((k.shape[0], weight.shape[0], *k.shape[2:])), k)


def _aggregate_flops(weights_shape: Any, v_shape: Any, kernel_size: int, *rest: Any, out_shape: Any) -> int:
    batch, channels, height, width = v_shape
    return int(2 * batch * channels * kernel_size**2 * height * width)


def _project_flops(
    k_shape: Any, scale_shape: Any, shift_shape: Any, weight_shape: Any, kernel_size: int, *rest: Any, out_shape: Any
) -> int:
    batch, channels, height, width = k_shape
    return int(2 * batch * channels * weight_shape[0] * kernel_size**2 * height * width)


def _register(name: str, tensors: str, the_map: int, fake: Callable[..., Tensor], flops: Formula) -> Any:
    """Both are functions of tensors and the window's side; `the_map` says which tensor is [B, C, H, W]."""
    graph = getattr(graphs, name)

    def backward_fake(*inputs: Any) -> Gradients:
        grads = [x.new_empty(x.shape) for x in inputs[:-1]]
        # The gradient of the map has its layout.
        grads[the_map] = as_map(grads[the_map], inputs[the_map])
        return tuple(grads)

    def plain_backward(grad: Tensor, *inputs: Any) -> Gradients:
        *tensors, kernel_size = inputs
        pulled: Gradients = torch.func.vjp(lambda *x: graph(*x, kernel_size), *tensors)[1](grad)
        return pulled

    pair = OpPair(
        name=name,
        tensors=tensors,
        options="int kernel_size",
        call=lambda function, *inputs: function(*inputs),
        fake=fake,
        backward_fake=backward_fake,
        plain_backward=plain_backward,
        # Two products for each of the forward pass; what is computed again is none.
        flops=flops,
    )
    return register_pair(pair)


neighbourhood_aggregate_op: Callable[..., Tensor] = _register(
    "neighbourhood_aggregate", "Tensor weights, Tensor v", 1, _fake_aggregate, _aggregate_flops
)
neighbourhood_project_op: Callable[..., Tensor] = _register(
    "neighbourhood_project",
    "Tensor k, Tensor scale, Tensor shift, Tensor weight",
    0,
    _fake_project,
    _project_flops,
)
