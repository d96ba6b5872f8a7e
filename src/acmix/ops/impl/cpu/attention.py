"""Window attention on the native kernels."""

import math

import torch
from torch import Tensor

from acmix.ops.impl import torch as portable
from acmix.ops.impl.cpu.limits import bounded_stride, reaches_far
from acmix.ops.impl.cpu.scratch import scratch
from acmix.ops.impl.torch.tiles import Window
from acmix.ops.layout import compute_dtype, empty_attention_output

__all__ = ["local_attention", "local_attention_backward"]


# Windows for which the kernels read dense rows of float32. Other memory is brought into such rows, so many bytes
# of each map at a time: that takes less than reading it entry by entry.
_USUAL = (3, 5, 7)
_USUAL_STRIDE = 2
_COPIED_BYTES = 2**20
_HEADS_OF_A_THREAD = 2


def _options(q: Tensor, window: Window) -> tuple[int, int, int, float]:
    return window.kernel_size, bounded_stride(q.shape, window.stride), window.dilation, window.scale


def _as_map(position: Tensor | None) -> Tensor | None:
    return None if position is None else position[None, None]


def _dense(position: Tensor | None) -> Tensor | None:
    return None if position is None else position.contiguous()


def _is_dense(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.stride(-1) == 1


def _needs_copies(options: tuple[int, int, int, float], *maps: Tensor) -> bool:
    kernel_size, stride, dilation, _ = options
    if kernel_size not in _USUAL or dilation != 1 or stride > _USUAL_STRIDE or maps[0].dtype == torch.float64:
        return False
    return not all(map(_is_dense, maps))


def _images(x: Tensor) -> list[slice]:
    """Images that are brought into dense rows at a time: no fewer than have some heads for each thread."""
    busy = -(-_HEADS_OF_A_THREAD * torch.get_num_threads() // max(1, x.shape[1]))
    count = max(1, busy, _COPIED_BYTES // (4 * max(1, math.prod(x.shape[1:]))))
    return [slice(first, first + count) for first in range(0, len(x), count)]


def _rows(name: str, like: Tensor) -> Tensor:
    shape = tuple(like.shape)
    if 4 * like.numel() > _COPIED_BYTES:  # too much to stay
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    return scratch(f"{name} of attention", shape)


def _copied(names: str, maps: tuple[Tensor, ...], images: slice) -> list[Tensor]:
    return [_rows(name, x[images]).copy_(x[images]) for name, x in zip(names.split(), maps, strict=True)]


def local_attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, window: Window) -> tuple[Tensor, None]:
    """Output [B, N, D, H', W'] of window attention over [B, N, D, H, W]; no log-sum-exp, which nobody reads here."""
    if reaches_far(q.shape, window.kernel_size, window.dilation):
        return portable.local_attention(q, k, v, position, window)
    out = empty_attention_output(q, window.stride)
    options, code = _options(q, window), _as_map(_dense(position))
    if not _needs_copies(options, q, k, v, out):
        torch.ops.acmix_cpu.attention_forward(q, k, v, code, out, *options)
        return out, None
    with torch.no_grad():
        code = None if code is None else code.float()
        for images in _images(q):
            rows = _rows("out", out[images])
            torch.ops.acmix_cpu.attention_forward(*_copied("q k v", (q, k, v), images), code, rows, *options)
            out[images].copy_(rows)
    return out, None


def local_attention_backward(
    grad: Tensor, tensors: tuple[Tensor, Tensor, Tensor], position: Tensor | None, window: Window
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v [B, N, D, H, W] and of the position [D, H, W]."""
    q, k, v = tensors
    if reaches_far(q.shape, window.kernel_size, window.dilation):
        return portable.local_attention_backward(grad, tensors, position, window)
    options, code = _options(q, window), _as_map(_dense(position))
    if not _is_dense(grad) and all(map(_is_dense, tensors)):
        grad = grad.contiguous()  # the gradient of a sum, say
    if _needs_copies(options, grad, q, k, v):
        return _backward_of_copies(grad, tensors, position, options)
    grad_q = (q.new_empty if window.stride == 1 else q.new_zeros)(q.shape)
    # Sums over the queries that see a key are held in float32 at least.
    grad_k, grad_v = (x.new_zeros(x.shape, dtype=compute_dtype(x.dtype)) for x in (k, v))
    torch.ops.acmix_cpu.attention_backward(grad, q, k, v, code, grad_q, grad_k, grad_v, *options)
    grad_position = None if position is None else grad_k.sum((0, 1)).neg_().to(position.dtype)
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), grad_position


def _backward_of_copies(
    grad: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor],
    position: Tensor | None,
    options: tuple[int, int, int, float],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    grads = [x.new_empty(x.shape) for x in tensors]
    with torch.no_grad():
        code = None if position is None else position.contiguous().float()
        of_code = None if code is None else torch.zeros_like(code)
        for images in _images(tensors[0]):
            rows = _copied("grad q k v", (grad, *tensors), images)
            found = [_rows(f"grad_{name}", rows[1]).zero_() for name in "qkv"]
            torch.ops.acmix_cpu.attention_backward(*rows, _as_map(code), *found, *options)
            for to, of_images in zip(grads, found, strict=True):
                to[images].copy_(of_images)
            if of_code is not None:
                of_code -= found[1].sum((0, 1))
    grad_q, grad_k, grad_v = grads
    return grad_q, grad_k, grad_v, None if position is None or of_code is None else of_code.to(position.dtype)
