"""An op and its backward pass as two torch operators, where the backward pass reads the op's inputs alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from acmix.ops.dispatch import load_backend
from acmix.ops.flop_formulas import Formula
from acmix.ops.library import Rules, or_empty, pull_back, register

__all__ = ["OpPair", "register_pair"]

Gradients = tuple[Tensor | None, ...]


class OpPair(NamedTuple):
    """An op `(*tensors, *options, impl) -> Tensor` and its backward pass `(grad, *tensors, *options, impl)`.

    Attributes:
        name: of the op; a backend has functions of that name and of it with `_backward`.
        tensors: the schema of its tensors, of which optional ones stand last.
        options: the schema of its options.
        call: from a backend's function, the tensors and the options to what that function gives; the same for both.
        fake: the op without values.
        backward_fake: its backward pass without values: gradients of the tensors, None for an absent one.
        plain_backward: its backward pass as differentiable torch functions.
        flops: FLOP formula of the op.
        backward_flops: how many times that of the backward pass is, a fraction.
        vmap: rule for a stacked op; None: one member after the other.
    """

    name: str
    tensors: str
    options: str
    call: Callable[..., Any]
    fake: Callable[..., Tensor]
    backward_fake: Callable[..., Gradients]
    plain_backward: Callable[..., Gradients]
    flops: Formula
    backward_flops: tuple[int, int] = (2, 1)
    vmap: Callable[..., Any] | None = None


def register_pair(pair: OpPair) -> Any:
    """Define `acmix::<name>` and `acmix::<name>_backward`; returns the first."""
    count = pair.tensors.count(",") + 1
    arguments = f"{pair.tensors}, {pair.options}, str impl"

    def kernel(*inputs: Any) -> Any:
        *rest, impl = inputs
        return pair.call(getattr(load_backend(impl), pair.name), *rest)

    def backward_kernel(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        *rest, impl = inputs
        function = getattr(load_backend(impl), f"{pair.name}_backward")
        grads = pair.call(lambda *x: function(grad, *x), *rest)
        return tuple(or_empty(x, inputs[0]) for x in grads)

    def backward_fake(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(or_empty(x, inputs[0]) for x in pair.backward_fake(*inputs[:-1]))

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.options = inputs[count:]

    def gradient(ctx: Any, grad: Tensor) -> Gradients:
        saved = ctx.saved_tensors  # read once: checkpointing unpacks each tensor a single time
        grads = backward_op(grad, *saved, *ctx.options)
        there = (None if x is None else of_x for x, of_x in zip(saved, grads, strict=True))
        return (*there, *(None,) * len(ctx.options))

    def keep_with_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: count + 1])
        ctx.options = inputs[count + 1 :]

    def second_gradient(ctx: Any, *grads: Tensor) -> Gradients:
        """Through the backward pass as plain functions; itself differentiable."""
        *options, _ = ctx.options

        def graph(grad: Tensor, *tensors: Tensor) -> Gradients:
            return pair.plain_backward(grad, *tensors, *options)

        return (*pull_back(graph, ctx.saved_tensors, grads), *(None,) * len(ctx.options))

    def backward_flops(grad_shape: Any, *rest: Any, out_shape: Any) -> int:
        times, over = pair.backward_flops
        return int(pair.flops(*rest, out_shape=out_shape) * times // over)

    rules = Rules(kernel, pair.fake, keep, gradient, pair.flops, pair.vmap)
    op = register(pair.name, f"({arguments}) -> Tensor", rules)
    results = ", ".join(["Tensor"] * count)
    rules = Rules(backward_kernel, backward_fake, keep_with_gradient, second_gradient, backward_flops)
    backward_op = register(f"{pair.name}_backward", f"(Tensor grad, {arguments}) -> ({results})", rules)
    return op
