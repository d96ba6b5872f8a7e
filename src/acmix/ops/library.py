"""The library of torch operators that the doors call, and what their registrations share.

`library_attention` and `library_convolution` register schema, kernel, fake kernel, autograd, vmap rule and FLOP formula
of each op, so that `torch.compile(fullgraph=True)`, `torch.export`, functorch and the FLOP counter see one node each.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LIBRARY", "or_empty", "pull_back", "register_decomposition", "register_kernel", "vmap_by_loop"]

LIBRARY = torch.library.Library("acmix", "DEF")


def register_kernel(name: str, function: Callable[..., Any]) -> None:
    """Make `function` the kernel of an op of `LIBRARY` on every device.

    The door has cast the inputs where autocast is on; inside it is off, or it would round what is computed in float32.
    """

    @functools.wraps(function)
    def kernel(x: Tensor, *rest: Any) -> Any:
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return function(x, *rest)
        with torch.autocast(device, enabled=False):
            return function(x, *rest)

    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")


def register_decomposition(op: Any, function: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Give the ONNX exporter plain functions to put in an op's place.

    It takes them from torch's table of decompositions. Fake tensors of symbolic sizes would do so too, had they no
    entry in the table beside it: they must go on with `fake`, which knows the strides.
    """
    torch._decomp.register_decomposition(op)(function)
    torch._decomp.register_decomposition(op, type="meta")(fake)


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
