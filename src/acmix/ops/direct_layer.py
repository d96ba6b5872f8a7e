"""The layer as one node of an eager graph, past torch's registry: the way through it takes as long as a small map."""

from typing import Any

import torch
from torch import Tensor

from acmix.ops.impl import cpu
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow
from acmix.ops.library import or_empty
from acmix.ops.library_layer import layer_backward_op, of_parameters
from acmix.ops.tracing import is_watched

__all__ = ["direct_layer"]

_COUNT = len(LayerInputs._fields)
_NO_OPTIONS = (None, None)


def _is_special(grad: Tensor, *inputs: Tensor | None) -> bool:
    """Whether the backward pass has to be an op that torch knows: to be watched, or mapped over many gradients."""
    return is_watched(grad, *inputs) or grad._is_zerotensor() or torch._C._functorch.is_legacy_batchedtensor(grad)


class _DirectLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, window: LayerWindow, keep: bool, *inputs: Tensor | None) -> Tensor:
        out, projected = cpu.layer(LayerInputs._make(inputs), window, keep)
        # As many tensors as the op saves: a checkpoint may go one way and come back the other.
        ctx.save_for_backward(*inputs, or_empty(projected, out))
        ctx.set_materialize_grads(False)
        ctx.window = window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        *inputs, projected = ctx.saved_tensors  # read once: checkpointing unpacks each tensor a single time
        wanted = ctx.needs_input_grad[len(_NO_OPTIONS) :]
        if grad is None:
            return (*_NO_OPTIONS, *(None,) * _COUNT)
        if torch.is_grad_enabled() or _is_special(grad, *inputs):
            found = of_parameters(layer_backward_op(grad, *inputs, projected, *ctx.window, wanted[0]))
        else:
            kept = projected if projected.numel() else None
            found = cpu.layer_backward(grad, LayerInputs._make(inputs), kept, ctx.window, wanted[0])
        return (*_NO_OPTIONS, *[of_x if needed else None for needed, of_x in zip(wanted, found, strict=True)])


def direct_layer(inputs: LayerInputs, window: LayerWindow, keep: bool) -> Tensor:
    """The output of `acmix::layer`, differentiable as often as one likes, where nothing watches.

    Args:
        inputs: the layer's tensors.
        window: heads, window, stride and dilation.
        keep: whether q, k and v stay for the backward pass.
    """
    out: Tensor = _DirectLayer.apply(window, keep, *inputs)
    return out
