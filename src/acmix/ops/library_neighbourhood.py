"""The sums over a window of patchwise attention as torch operators, each with its backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acmix.ops.flop_formulas import Formula, register_flop_formula
from acmix.ops.impl.torch import neighbourhood as kernels
from acmix.ops.impl.torch import neighbourhood_graph as graphs
from acmix.ops.library import LIBRARY, pull_back, register_decomposition, register_kernel, vmap_by_loop

__all__ = ["neighbourhood_aggregate_op", "neighbourhood_project_op"]


def _shape_of_aggregate(weights: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    return kernels.as_map(v.new_empty(v.shape), v)


def _shape_of_project(k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    return kernels.as_map(k.new_empty((k.shape[0], weight.shape[0], *k.shape[2:])), k)


def _define(name: str, tensors: tuple[str, ...], the_map: str, fake: Callable[..., Tensor], flops: Formula) -> Any:
    """Register `acmix::<name>` of these tensors and the window's side from the functions of this name."""
    count, graph = len(tensors), getattr(graphs, name)
    arguments = "".join(f"Tensor {tensor}, " for tensor in tensors) + "int kernel_size"
    LIBRARY.define(f"{name}({arguments}) -> Tensor")
    LIBRARY.define(f"{name}_backward(Tensor grad, {arguments}) -> ({', '.join(['Tensor'] * count)})")
    packets = getattr(torch.ops.acmix, name), getattr(torch.ops.acmix, f"{name}_backward")
    forward_op, backward_op = (packet.default for packet in packets)

    def backward_fake(grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        grads = [x.new_empty(x.shape) for x in rest[:count]]
        # The gradient of the map has its layout.
        place = tensors.index(the_map)
        grads[place] = kernels.as_map(grads[place], rest[place])
        return tuple(grads)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *kept, ctx.kernel_size = inputs
        ctx.save_for_backward(*kept)

    def gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*backward_op(grad, *ctx.saved_tensors, ctx.kernel_size), None)

    def second_gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Through the backward pass as a graph, itself differentiable."""

        def backward_graph(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            pulled: tuple[Tensor, ...] = torch.func.vjp(lambda *x: graph(*x, ctx.kernel_size), *inputs)[1](grad)
            return pulled

        return (*pull_back(backward_graph, ctx.saved_tensors, grads), None)

    def vmap_forward(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        return vmap_by_loop(forward_op, info.batch_size, in_dims, inputs)

    def vmap_backward(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        return vmap_by_loop(backward_op, info.batch_size, in_dims, inputs)

    register_kernel(name, getattr(kernels, name))
    register_kernel(f"{name}_backward", getattr(kernels, f"{name}_backward"))
    torch.library.register_fake(forward_op, fake)
    torch.library.register_fake(backward_op, backward_fake)
    torch.library.register_autograd(forward_op, gradient, setup_context=setup)
    torch.library.register_autograd(backward_op, second_gradient, setup_context=setup)
    torch.library.register_vmap(forward_op, vmap_forward)
    torch.library.register_vmap(backward_op, vmap_backward)
    register_decomposition(forward_op, graph, fake)
    register_flop_formula(packets[0], flops)
    # Two products for each of the forward pass; what is computed again is none.
    register_flop_formula(packets[1], lambda grad_shape, *rest, out_shape: 2 * flops(*rest, out_shape=out_shape))
    return packets[0]


def _aggregate_flops(weights_shape: Any, v_shape: Any, kernel_size: int, *, out_shape: Any) -> int:
    batch, channels, height, width = v_shape
    return int(2 * batch * channels * kernel_size**2 * height * width)


def _project_flops(
    k_shape: Any, scale_shape: Any, shift_shape: Any, weight_shape: Any, kernel_size: int, *, out_shape: Any
) -> int:
    batch, channels, height, width = k_shape
    return int(2 * batch * channels * weight_shape[0] * kernel_size**2 * height * width)


neighbourhood_aggregate_op: Callable[..., Tensor] = _define(
    "neighbourhood_aggregate", ("weights", "v"), "v", _shape_of_aggregate, _aggregate_flops
)
neighbourhood_project_op: Callable[..., Tensor] = _define(
    "neighbourhood_project", ("k", "scale", "shift", "weight"), "k", _shape_of_project, _project_flops
)
