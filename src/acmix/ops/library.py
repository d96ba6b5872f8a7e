"""The library of torch operators that the doors call, and how an op is registered in it.

Every op gets a schema, a kernel, a fake kernel, a gradient, a vmap rule and a FLOP formula, so that
`torch.compile(fullgraph=True)`, `torch.export`, functorch and the FLOP counter see one node each.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.ops.flop_formulas import Formula, register_flop_formula

__all__ = ["Rules", "or_empty", "pull_back", "register", "vmap_by_loop"]

_LIBRARY = torch.library.Library("acmix", "DEF")


class Rules(NamedTuple):
    """What torch has to know about an op.

    Attributes:
        kernel: what computes it, on every device.
        fake: the same without values, for sizes, dtypes and strides.
        setup: `(ctx, inputs, output)`, keeps what the gradient reads.
        gradient: `(ctx, *grads of the results)`, the gradients of all inputs.
        flops: FLOP formula, from shapes of tensors and other arguments as they are.
        vmap: rule for stacked inputs; None: one member after the other.
    """

    kernel: Callable[..., Any]
    fake: Callable[..., Any]
    setup: Callable[..., None]
    gradient: Callable[..., tuple[Tensor | None, ...]]
    flops: Formula
    vmap: Callable[..., Any] | None = None


def register(name: str, schema: str, rules: Rules) -> Any:
    """Define `acmix::<name>`.

    Args:
        name: name of the op.
        schema: its arguments and results, "(...) -> ...".
        rules: the rest.

    Returns:
        The op, `torch.ops.acmix.<name>.default`.
    """
    _LIBRARY.define(name + schema)
    packet = getattr(torch.ops.acmix, name)
    op = packet.default
    _LIBRARY.impl(name, _without_autocast(rules.kernel), "CompositeExplicitAutograd")
    torch.library.register_fake(op, rules.fake)
    torch.library.register_autograd(op, rules.gradient, setup_context=rules.setup)

    def one_after_the_other(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        return vmap_by_loop(op, info.batch_size, in_dims, arguments)

    torch.library.register_vmap(op, rules.vmap or one_after_the_other)
    register_flop_formula(packet, rules.flops)
    return op


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The door has cast the inputs where autocast is on; inside it is off, or it would round what is in float32."""

    @functools.wraps(function)
    def kernel(x: Tensor, *rest: Any) -> Any:
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return function(x, *rest)
        with torch.autocast(device, enabled=False):
            return function(x, *rest)

    return kernel


def or_empty(x: Tensor | None, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A schema has no optional results: an absent one is an empty tensor."""
    return like.new_empty(0, dtype=dtype) if x is None else x


def pull_back(
    graph: Callable[..., tuple[Tensor | None, ...]], inputs: tuple[Tensor | None, ...], grads: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """Gradients of `inputs`, None for an absent one, from those of the results of `graph`; themselves differentiable.

    Args:
        graph: differentiable torch functions from all inputs to results, of which those at the end may be absent.
        inputs: what `graph` is called with.
        grads: gradients of the results that are there, and perhaps more, which are not read.
    """
    there = [i for i, x in enumerate(inputs) if x is not None]

    def of_present(*present: Tensor) -> tuple[Tensor, ...]:
        filled = list(inputs)
        for i, x in zip(there, present, strict=True):
            filled[i] = x
        return tuple(result for result in graph(*filled) if result is not None)

    results, pullback = torch.func.vjp(of_present, *(inputs[i] for i in there))[:2]
    pulled = iter(pullback(grads[: len(results)]))
    return [None if x is None else next(pulled) for x in inputs]


def _member(argument: Any, dim: int | None, index: int) -> Any:
    return argument if dim is None else argument.select(dim, index)


def vmap_by_loop(
    op: Callable[..., Any], members: int, in_dims: tuple[int | None, ...], arguments: tuple[Any, ...]
) -> tuple[Any, Any]:
    """The vmap rule of last resort: call `op` for each member and stack its results."""
    results = [
        op(*(_member(argument, dim, i) for argument, dim in zip(arguments, in_dims, strict=True)))
        for i in range(members)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
