"""Sizes, reflection and multiplicity: the only place where these formulas stand.

Legend of the whole package: B batch, C channels, N heads, D = C / N head width, H W map size, K attention window
side, k convolution kernel side, s stride, d dilation, r = (K - 1) / 2.
"""

import torch
from torch import Tensor

__all__ = ["multiplicity", "output_size", "reflect", "window_offsets"]


def output_size(size: int, stride: int) -> int:
    """Length of an output axis, ceil(size / stride), for both paths."""
    return (size + stride - 1) // stride


def window_offsets(kernel_size: int, dilation: int, device: torch.device | None = None) -> Tensor:
    """Offsets of a window's K keys from its query, in pixels: int64 [K], from -r * d to r * d."""
    radius = (kernel_size - 1) // 2
    return torch.arange(-radius, radius + 1, device=device) * dilation


def reflect(index: Tensor, size: int) -> Tensor:
    """Mirror positions at the borders of [0, size), edge pixel not repeated, as often as it takes.

    Args:
        index: int64 positions of any shape, inside the axis or out of it.
        size: axis length, at least 1.

    Returns:
        Positions inside the axis, of the same shape. Where `torch.nn.ReflectionPad2d` is defined the two agree.
    """
    # As tensors: exporters do not translate a remainder by a number that depends on the map's size.
    period = index.new_full((), torch.sym_max(2 * (size - 1), 1))
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded).remainder(index.new_full((), size))


def multiplicity(queries: Tensor, keys: Tensor, size: int, kernel_size: int, dilation: int) -> Tensor:
    """How often each key stands in each query's reflected window, along one axis.

    Reflection padding makes copies of in-image keys, so a padded window is ordinary attention over in-image keys in
    which key `j` counts `m(i, j) = #{o : reflect(i + o) = j}` times; 0 masks it. The table is separable by axis.

    Args:
        queries: int64 [..., Q] query positions on the input's axis.
        keys: int64 [..., J] key positions, same leading dimensions.
        size: axis length.
        kernel_size: window side K.
        dilation: spacing of the window's keys, in pixels.

    Returns:
        int64 [..., Q, J].
    """
    window = reflect(queries.unsqueeze(-1) + window_offsets(kernel_size, dilation, queries.device), size)
    return (window.unsqueeze(-2) == keys[..., None, :, None]).sum(-1)
