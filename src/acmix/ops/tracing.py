"""Who is calling: an eager program, a tracer, or a transform that cannot see through a registered op."""

import warnings
from typing import Any

import torch
from torch._C._functorch import TransformType
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

__all__ = ["check_plain", "fixed", "is_jit_tracing", "is_tracing", "is_watched", "wants_plain_functions"]

_jit: Any = torch.jit  # not typed

_PLAIN = frozenset((torch.Tensor, torch.nn.Parameter, type(None)))


def is_tracing() -> bool:
    """Whether sizes may be symbols or tensors now, which the checks at the doors cannot judge."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_jit_tracing() -> bool:
    """Whether `torch.jit.trace` is looking: `torch.jit.is_tracing` in fewer steps, since every call asks it."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def is_watched(*tensors: torch.Tensor | None) -> bool:
    """Whether something is to see every step that is computed with these, or changes what a tensor is.

    A tracer, a transform of torch.func, a mode such as the FLOP counter, or a subclass of Tensor.
    """
    if is_tracing() or torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return True
    return not _PLAIN.issuperset(map(type, tensors))


def wants_plain_functions() -> bool:
    """Whether the plain functions that an op stands for have to run in its place.

    ONNX has no ops of ours. Neither `torch.func` nor forward-mode differentiation (`torch.autograd.forward_ad`) sees
    through ops whose gradient is registered with torch.library. `torch.vmap` alone finds their rules.
    """
    if torch.onnx.is_in_onnx_export():
        return True
    if not torch._C._are_functorch_transforms_active():
        return not torch.compiler.is_compiling() and forward_ad._current_level >= 0
    if torch.compiler.is_compiling():
        return True  # the tracer does not follow the question below
    return any(transform.key() != TransformType.Vmap for transform in retrieve_all_functorch_interpreters())


def check_plain(op: str, impl: str) -> None:
    """Raise RuntimeError where plain functions were to run in place of a backend that was asked for by name."""
    if impl not in ("auto", "torch") and not torch.onnx.is_in_onnx_export():  # where no backend runs
        raise RuntimeError(
            f"{op}: impl={impl!r} cannot run inside torch.func's transforms or forward-mode differentiation; use "
            "'torch' or 'auto'."
        )


def fixed(size: int) -> int:
    """A number of channels or a kernel's side as an integer: `torch.jit.trace` gives it as a tensor."""
    if not is_jit_tracing():
        return size
    with warnings.catch_warnings():
        # The warning is for sizes that another input may change; these belong to the layer.
        warnings.simplefilter("ignore", _jit.TracerWarning)
        return int(size)
