"""The sums over a window as graphs of plain differentiable torch functions, for sizes that may be symbols.

Where the registered ops cannot stand: exporters, functorch, second derivatives. One slice of the padded map for each
offset; what autograd keeps of `neighbourhood_project` has the size of the unfolded map.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from acmix.ops.geometry import reflect
from acmix.ops.layout import compute_dtype

__all__ = ["neighbourhood_aggregate", "neighbourhood_project", "pad_by_reflection"]


def pad_by_reflection(x: Tensor, reach: int) -> Tensor:
    """[..., H, W] -> [..., H + 2 r, W + 2 r], borders reflected as often as it takes, H and W perhaps symbolic."""
    for axis in (-2, -1):
        size = x.shape[axis]
        index = torch.arange(size + 2 * reach, device=x.device) - reach
        x = x.index_select(axis, reflect(index, size))
    return x


def _slices(x: Tensor, kernel_size: int) -> Iterator[Tensor]:
    """The map as every offset of the window sees it, offsets row by row."""
    height, width = x.shape[-2:]
    padded = pad_by_reflection(x.to(compute_dtype(x.dtype)), kernel_size // 2)
    for y in range(kernel_size):
        for x_offset in range(kernel_size):
            yield padded[..., y : y + height, x_offset : x_offset + width]


def neighbourhood_aggregate(weights: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """[B, G, K * K, H, W] and [B, C, H, W] -> [B, C, H, W]."""
    by_offset = weights.to(compute_dtype(v.dtype)).unsqueeze(1).unbind(3)
    slices = _slices(v.unflatten(1, (-1, weights.shape[1])), kernel_size)
    out = torch.zeros((), dtype=compute_dtype(v.dtype), device=v.device)
    for weight, window in zip(by_offset, slices, strict=True):
        out = out + weight * window
    return out.flatten(1, 2).to(v.dtype)


def neighbourhood_project(k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """[B, C, H, W] -> [B, M, H, W]."""
    affine = zip(scale.unbind(1), shift.unbind(1), weight.unbind(2), strict=True)
    out = torch.zeros((), dtype=compute_dtype(k.dtype), device=k.device)
    for window, (factor, offset, matrix) in zip(_slices(k, kernel_size), affine, strict=True):
        hidden = (window * factor[:, None, None] + offset[:, None, None]).relu().to(k.dtype)
        out = out + torch.einsum("mc,bchw->bmhw", matrix, hidden)
    return out.to(k.dtype)
