"""Batch statistics of maps that are never made: unfolded ones, differences over a window, projections.

Reflection is linear: how often a pixel is read at an offset is a product of two small tables of counts, one of each
axis. Sums over all pixels of all shifted maps are therefore two small matrix products.
"""

import torch
from torch import Tensor

from acmix.ops.geometry import multiplicity, reflect, window_offsets
from acmix.ops.layout import compute_dtype

__all__ = ["difference_moments", "projection_moments", "window_moments"]


def _reads(size: int, kernel_size: int, like: Tensor) -> Tensor:
    """How often each pixel of an axis is read at each offset: [K, size]."""
    pixels = torch.arange(size, device=like.device)
    seen = reflect(pixels + window_offsets(kernel_size, 1, like.device)[:, None], size)
    return (seen[..., None] == pixels).sum(1).to(like.dtype)


def _windows(size: int, kernel_size: int, like: Tensor) -> Tensor:
    """How often each pixel of an axis stands in the window of each: [size, size]."""
    pixels = torch.arange(size, device=like.device)
    return multiplicity(pixels, pixels, size, kernel_size, 1).to(like.dtype)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """In float32 at least, less the mean of each channel: squares of what is left do not cancel. [..., C, H, W]."""
    x = x.to(compute_dtype(x.dtype))
    mean = x.detach().mean((0, 2, 3))
    return x - mean[:, None, None], mean


def window_moments(x: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of [B, C, H, W] as each offset of a reflected window sees it.

    Returns:
        Two tensors [C, K * K], offsets row by row, in float32 at least.
    """
    centred, mean = _centred(x)
    rows, columns = (_reads(size, kernel_size, centred) for size in x.shape[2:])
    count = x.shape[0] * x.shape[2] * x.shape[3]

    def average(pixels: Tensor) -> Tensor:
        return (rows @ pixels @ columns.T).flatten(1) / count

    first, second = average(centred.sum(0)), average(centred.square().sum(0))
    return first + mean[:, None], (second - first.square()).clamp(min=0)


def difference_moments(q: Tensor, k: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over images, pixels and offsets of `q_i - k_(i + o)`, for [B, C, H, W] each: two [C]."""
    (q, q_mean), (k, k_mean) = _centred(q), _centred(k)
    rows, columns = (_windows(size, kernel_size, k) for size in k.shape[2:])
    count = q.shape[0] * q.shape[2] * q.shape[3] * kernel_size**2
    # Sums over the window of every pixel, and how often each key is read in all.
    boxes = rows @ k @ columns.T
    reads = rows.sum(0)[:, None] * columns.sum(0)
    first = (q * kernel_size**2 - boxes).sum((0, 2, 3)) / count
    second = (q.square() * kernel_size**2 - 2 * q * boxes + k.square() * reads).sum((0, 2, 3)) / count
    return first + q_mean - k_mean, (second - first.square()).clamp(min=0)


def projection_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of a 1x1 convolution of [B, C, H, W], weight [M, C]: two [M]."""
    centred, mean = _centred(x)
    flat, weight = centred.movedim(1, 0).flatten(1), weight.to(centred.dtype)
    first = flat.mean(1)
    covariance = flat @ flat.T / flat.shape[1] - first[:, None] * first
    return weight @ (mean + first), ((weight @ covariance) * weight).sum(1).clamp(min=0)
