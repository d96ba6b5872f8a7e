"""The two sums over a window of patchwise attention, written with the window unfolded."""

import torch
from torch import Tensor

from acmix.ops.geometry import reflect, window_offsets

__all__ = ["neighbourhood_aggregate", "neighbourhood_project", "unfold_window"]


def unfold_window(x: Tensor, kernel_size: int) -> Tensor:
    """[B, C, H, W] -> [B, C, K * K, H, W]: the reflected window of every pixel, offsets row by row."""
    for axis in (2, 4):
        size = x.shape[-2 if axis == 2 else -1]
        offsets = window_offsets(kernel_size, 1, x.device)
        pixels = offsets.new_ones(size).cumsum(0).sub(1)
        index = reflect(pixels + offsets[:, None], size)
        x = x.index_select(-2 if axis == 2 else -1, index.flatten())
        x = x.unflatten(-2, (kernel_size, size)) if axis == 2 else x.unflatten(-1, (kernel_size, size))
    return x.movedim(4, 3).flatten(2, 3)


def neighbourhood_aggregate(weights: Tensor, v: Tensor, kernel_size: int) -> Tensor:
    """Multiply and sum; shapes as in `acmix.functional.neighbourhood_aggregate`."""
    window = unfold_window(v, kernel_size).unflatten(1, (-1, weights.shape[1]))
    out: Tensor = (weights.unsqueeze(1) * window).sum(3)
    return out.flatten(1, 2)


def neighbourhood_project(k: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """Scale, shift, rectify and project the unfolded window; shapes as in `acmix.ops.neighbourhood`."""
    window = unfold_window(k, kernel_size)
    hidden = (window * scale[..., None, None] + shift[..., None, None]).relu().to(k.dtype)
    return torch.einsum("mco,bcohw->bmhw", weight, hidden)
