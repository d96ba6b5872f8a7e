"""Window attention on the native kernels."""

import torch
from torch import Tensor

from acmix.ops.impl import torch as portable
from acmix.ops.impl.cpu.limits import bounded_stride, reaches_far
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.layout import compute_dtype, empty_attention_output

__all__ = ["local_attention", "local_attention_backward"]


def _options(q: Tensor, window: Window) -> tuple[int, int, int, float]:
    return window.kernel_size, bounded_stride(q, window.stride), window.dilation, window.scale


def _as_map(position: Tensor | None) -> Tensor | None:
    return None if position is None else position[None, None]


def local_attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, window: Window) -> tuple[Tensor, None]:
    """Output [B, N, D, H', W'] of window attention over [B, N, D, H, W]; no log-sum-exp, which nobody reads here."""
    if reaches_far(q, window.kernel_size, window.dilation):
        return portable.local_attention(q, k, v, position, window)
    out = empty_attention_output(q, window.stride)
    torch.ops.acmix_cpu.attention_forward(q, k, v, _as_map(position), out, *_options(q, window))
    return out, None


def local_attention_backward(
    grad: Tensor, tensors: tuple[Tensor, Tensor, Tensor], position: Tensor | None, window: Window
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v [B, N, D, H, W] and of the position [D, H, W]."""
    q, k, v = tensors
    if reaches_far(q, window.kernel_size, window.dilation):
        return portable.local_attention_backward(grad, tensors, position, window)
    grad_q = (q.new_empty if window.stride == 1 else q.new_zeros)(q.shape)
    # Sums over the queries that see a key are held in float32 at least.
    grad_k, grad_v = (x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) for x in (k, v))
    torch.ops.acmix_cpu.attention_backward(
        grad, q, k, v, _as_map(position), grad_q, grad_k, grad_v, *_options(q, window)
    )
    grad_position = None if position is None else grad_k.sum((0, 1)).neg_().to(position.dtype)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_position
