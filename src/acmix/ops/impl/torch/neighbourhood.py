"""Sums over a reflected window without an unfolded copy of the map, forward and backward.

The map is padded once. `neighbourhood_aggregate` walks over the offsets of the window with slices of it;
`neighbourhood_project` over the rows of the window, each of which becomes one matrix product. What is alive beside
inputs and results is a padded map, and K columns of it in the second function.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.geometry import reflect
from acmix.ops.layout import compute_dtype

__all__ = [
    "as_map",
    "neighbourhood_aggregate",
    "neighbourhood_aggregate_backward",
    "neighbourhood_project",
    "neighbourhood_project_backward",
]

# Bytes of the working set of one step on a CPU: what stays in a core's second-level cache.
STEP_BYTES = 2**20


def as_map(x: Tensor, like: Tensor) -> Tensor:
    """`x` [B, C, H, W], dense, channels last where those of `like` are; copied where it is not so yet."""
    channels_last = like.stride(3) != 1 and like.stride(1) < like.stride(3)
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _positions(size: int, reach: int) -> Tensor:
    return reflect(torch.arange(-reach, size + reach), size)


def _pad(x: Tensor, reach: int) -> Tensor:
    """[B, C, H, W] -> [B, C, H + 2 r, W + 2 r], borders reflected as often as it takes; contiguous."""
    height, width = x.shape[2:]
    if reach == 0:
        return x.contiguous()
    if reach < min(height, width):
        return F.pad(x, (reach,) * 4, mode="reflect").contiguous()
    rows, columns = (_positions(size, reach).to(x.device) for size in (height, width))
    return x.index_select(2, rows).index_select(3, columns).contiguous()


def _fold(padded: Tensor, reach: int) -> Tensor:
    """Adjoint of `_pad`, in place; a view of `padded`."""
    for axis in (2, 3):
        size = padded.shape[axis] - 2 * reach
        if size < 1:
            return padded
        inner = padded.narrow(axis, reach, size)
        for place, source in enumerate(_positions(size, reach).tolist()):
            if not reach <= place < reach + size:
                inner.select(axis, source).add_(padded.select(axis, place))
        padded = inner
    return padded


def _blocks(x: Tensor, copies: int) -> Iterator[slice]:
    """Cuts the batch so that so many copies of a block of `x` stay in a CPU's cache; one block on other devices."""
    images = x.shape[0]
    step = images
    if x.device.type == "cpu":
        step = max(1, STEP_BYTES // max(1, 4 * copies * x[:1].numel()))
    for start in range(0, images, max(step, 1)):
        yield slice(start, start + step)


def neighbourhood_aggregate(weights: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """[B, G, K * K, H, W] and [B, C, H, W] -> [B, C, H, W], see `acmix.functional.neighbourhood_aggregate`."""
    groups, height, width = weights.shape[1], *v.shape[2:]
    dtype, reach, pixels = compute_dtype(v.dtype), kernel_size // 2, height * width
    flat = weights.contiguous().flatten(3)
    out = v.new_zeros(v.shape, dtype=dtype)
    for block in _blocks(v, 2):
        padded = _pad(v[block].to(dtype), reach)
        result = out[block].unflatten(1, (-1, groups)).flatten(3)
        for x in range(kernel_size):
            # Whole rows of one column offset lie behind each other, so that each row offset is one run of pixels.
            columns = padded[..., x : x + width].contiguous().unflatten(1, (-1, groups)).flatten(3)
            for y in range(kernel_size):
                weight = flat[block, None, :, y * kernel_size + x].to(dtype)
                result.addcmul_(weight, columns[..., y * width : y * width + pixels])
    return as_map(out.to(v.dtype), v)


def neighbourhood_aggregate_backward(
    grad: Tensor, weights: Tensor, v: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the weights and of v."""
    groups, height, width = weights.shape[1], *v.shape[2:]
    dtype, reach, pixels = compute_dtype(v.dtype), kernel_size // 2, height * width
    flat = weights.contiguous().flatten(3)
    grad_v = v.new_empty(v.shape, dtype=dtype)
    grad_weights = weights.new_empty(weights.shape)
    flat_grad_weights = grad_weights.flatten(3)
    for block in _blocks(v, 5):
        padded = _pad(v[block].to(dtype), reach)
        grad_padded = torch.zeros_like(padded)
        incoming = grad[block].to(dtype).contiguous().unflatten(1, (-1, groups)).flatten(3)
        product = torch.empty_like(incoming)
        for x in range(kernel_size):
            columns = padded[..., x : x + width].contiguous().unflatten(1, (-1, groups)).flatten(3)
            grad_columns = torch.zeros_like(columns)
            for y in range(kernel_size):
                offset, rows = y * kernel_size + x, slice(y * width, y * width + pixels)
                grad_columns[..., rows].addcmul_(flat[block, None, :, offset].to(dtype), incoming)
                torch.mul(incoming, columns[..., rows], out=product)
                flat_grad_weights[block, :, offset] = product.sum(1)
            grad_padded[..., x : x + width] += grad_columns.flatten(1, 2).unflatten(2, (-1, width))
        grad_v[block] = _fold(grad_padded, reach)
    return grad_weights, as_map(grad_v.to(v.dtype), v)


def _window_row(padded: Tensor, y: int, kernel_size: int) -> Tensor:
    """Row `y` of all windows as a view: [B, C, K, H, W]."""
    batch, channels, rows, columns = padded.shape
    size = (batch, channels, kernel_size, rows - kernel_size + 1, columns - kernel_size + 1)
    strides = (*padded.stride()[:2], padded.stride(3), *padded.stride()[2:])
    return padded.as_strided(size, strides, padded.storage_offset() + y * padded.stride(2))


def neighbourhood_project(k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """[B, C, H, W] -> [B, M, H, W], see `acmix.ops.neighbourhood.neighbourhood_project`."""
    dtype, height, width = compute_dtype(k.dtype), *k.shape[2:]
    out = k.new_zeros((k.shape[0], weight.shape[0], height * width), dtype=dtype)
    for block in _blocks(k, 2 * kernel_size):
        padded = _pad(k[block].to(dtype), kernel_size // 2)
        for y in range(kernel_size):
            row = slice(y * kernel_size, (y + 1) * kernel_size)
            hidden = torch.addcmul(
                shift[:, row, None, None].to(dtype),
                _window_row(padded, y, kernel_size),
                scale[:, row, None, None].to(dtype),
            )
            rectified = hidden.relu_().to(k.dtype).flatten(3).flatten(1, 2)
            matrix = weight[:, :, row].flatten(1).expand(rectified.shape[0], -1, -1)
            if dtype == k.dtype:
                out[block].baddbmm_(matrix, rectified)
            else:
                out[block] += matrix @ rectified
    return as_map(out.to(k.dtype).unflatten(2, (height, width)), k)


def neighbourhood_project_backward(
    grad: Tensor, k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of k, scale, shift and weight; the hidden map is computed again, row by row."""
    dtype, height, width = compute_dtype(k.dtype), *k.shape[2:]
    grad_k = k.new_empty(k.shape, dtype=dtype)
    grad_scale, grad_shift, grad_weight = (x.new_zeros(x.shape, dtype=dtype) for x in (scale, shift, weight))
    for block in _blocks(k, 4 * kernel_size):
        padded = _pad(k[block].to(dtype), kernel_size // 2)
        grad_padded = torch.zeros_like(padded)
        incoming = grad[block].contiguous().flatten(2)
        for y in range(kernel_size):
            row = slice(y * kernel_size, (y + 1) * kernel_size)
            factor = scale[:, row, None, None].to(dtype)
            window = _window_row(padded, y, kernel_size)
            hidden = torch.addcmul(shift[:, row, None, None].to(dtype), window, factor).relu_()
            rectified = hidden.to(k.dtype).flatten(3).flatten(1, 2)
            matrix = weight[:, :, row].flatten(1).expand(rectified.shape[0], -1, -1)
            grad_matrix = (incoming @ rectified.transpose(1, 2)).to(dtype).sum(0)
            grad_weight[:, :, row] += grad_matrix.unflatten(1, (-1, kernel_size))
            grad_hidden = (matrix.transpose(1, 2) @ incoming).to(dtype).view_as(hidden)
            grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, hidden, 0)
            grad_shift[:, row] += grad_hidden.sum((0, 3, 4))
            grad_scale[:, row] += torch.mul(grad_hidden, window, out=hidden).sum((0, 3, 4))
            grad_hidden.mul_(factor)
            for x in range(kernel_size):
                grad_padded[..., y : y + height, x : x + width] += grad_hidden[:, :, x]
        grad_k[block] = _fold(grad_padded, kernel_size // 2)
    grads = (grad.to(x.dtype) for grad, x in ((grad_scale, scale), (grad_shift, shift), (grad_weight, weight)))
    return (as_map(grad_k.to(k.dtype), k), *grads)  # type: ignore[return-value]  # three, which mypy cannot count
