"""Steps of which the backward pass keeps the inputs alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from acmix.ops.tracing import is_tracing, wants_plain_functions

__all__ = ["recomputed"]


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, computed again in the backward pass: for steps that are cheaper than what they store.

    The function must have no side effects and no randomness. Tracers and functorch get it as it is: compilers decide
    themselves what they keep.
    """
    if not torch.is_grad_enabled() or is_tracing() or wants_plain_functions():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
