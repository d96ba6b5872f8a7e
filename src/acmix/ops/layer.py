"""The door of the whole layer as one op, which only the native backend has."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

from acmix.ops.convolution import cheaper_form
from acmix.ops.direct_layer import direct_layer
from acmix.ops.dispatch import load_backend
from acmix.ops.impl import cpu
from acmix.ops.impl.cpu.limits import bounded_stride, reaches_far
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow
from acmix.ops.library_layer import layer_op
from acmix.ops.problem import Problem
from acmix.ops.tracing import is_jit_tracing, is_tracing, is_watched

__all__ = ["is_usual_map", "layer", "runs_at_once"]

# Input channels from which on q, k and v stay for the backward pass. Of fewer they are computed again as soon as they
# are written and read, and x alone stays. By the depth alone: so what is kept is proportional to the map.
_KEPT_DEPTH = 128


def is_usual_map(x: object, channels: int, weight: Tensor | None) -> bool:
    """Whether a map [B, channels, H, W] is one that no check would refuse, and the commonest on a CPU.

    In fewer steps than the checks themselves, which take as long as a small map's attention.

    Args:
        x: what came.
        channels: of the layer's input.
        weight: one of the layer's; None where something computes it.
    """
    if type(x) is not Tensor or is_tracing() or weight is None:
        return False
    alike = x.dtype is weight.dtype is torch.float32 and x.is_cpu and weight.is_cpu
    return alike and x.dim() == 4 and x.shape[1] == channels and 0 not in x.shape


def runs_at_once(x: Tensor, head_width: int, kernel_conv: int, window: LayerWindow, impl: str) -> bool:
    """Whether both stages can run as one op, which is faster; else the layer calls the ops of its parts.

    Args:
        x: input [B, C_in, H, W].
        head_width: channels D of a head.
        kernel_conv: kernel side k of the convolution path; 0 without that path.
        window: heads, window, stride and dilation.
        impl: the backend that the layer was given, or "auto".
    """
    if impl not in ("auto", "cpu") or x.dtype != torch.float32 or not x.is_cpu:
        return False
    # Exporters first: where sizes are symbols, to ask for the strides would be to decide about them.
    if _is_transformed() or torch.is_autocast_enabled("cpu") or not x.is_contiguous():
        return False
    fits = _fits.__wrapped__ if is_watched(x) else _fits  # sizes may be symbols there
    return fits(x.shape, head_width, kernel_conv, window)


@lru_cache(maxsize=256)
def _fits(shape: tuple[int, ...], head_width: int, kernel_conv: int, window: LayerWindow) -> bool:
    """By the sizes alone, and by whether the kernels are there: a network asks for the same few again and again."""
    problem = Problem("layer", "cpu", torch.float32, window.kernel_size, head_width)
    if 0 in shape or load_backend("cpu").why_not(problem):
        return False
    far = any(reaches_far(shape, size, window.dilation) for size in (window.kernel_size, kernel_conv))
    if far or bounded_stride(shape, window.stride) != window.stride:
        return False
    return cheaper_form(3 * window.heads, kernel_conv, window.heads) == "composed"


def _is_transformed() -> bool:
    """Exporters and `torch.func` are to see the parts, which have plain functions to stand in for them."""
    if torch.compiler.is_exporting() or is_jit_tracing():
        return True
    if torch._C._are_functorch_transforms_active():
        return True
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def layer(inputs: LayerInputs, window: LayerWindow) -> Tensor:
    """Both stages of ACmix: [B, C_in, H, W] -> [B, C, ceil(H / s), ceil(W / s)].

    Args:
        inputs: the layer's tensors, all of the dtype of an x for which `runs_at_once` holds.
        window: heads, window, stride and dilation.
    """
    differentiates = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    keep = differentiates and inputs.query.shape[1] >= _KEPT_DEPTH
    if is_watched(*inputs):
        out: Tensor = layer_op(*inputs, *window, keep)[0]
        return out
    return direct_layer(inputs, window, keep) if differentiates else cpu.layer(inputs, window, False)[0]
