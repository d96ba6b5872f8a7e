"""The ACmix layer and its attention with other people's kernels in the place of ours.

Each attention here computes what `acmix.functional.local_attention` does, borders reflected, so that the answers of all
agree and only the way there differs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import nn as layers
from acmix.functional import local_attention
from acmix.nn.position import coordinate_grid
from acmix.nn.two_paths import present

__all__ = ["Attention", "LayerAround", "OpAttention", "UnfoldedAttention", "padded"]


class Attention(nn.Module):
    """Window attention over reflected borders: q, k, v [B, N, D, H, W] -> [B, N, D, ceil(H / s), ceil(W / s)].

    Args:
        window: side K of the window.
        stride: stride s of the queries.
    """

    def __init__(self, window: int, stride: int = 1) -> None:
        super().__init__()
        self.window, self.stride = window, stride

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends."""
        raise NotImplementedError


class OpAttention(Attention):
    """This library's op.

    Args:
        window: side K of the window.
        stride: stride s of the queries.
        impl: its backend.
    """

    def __init__(self, window: int, stride: int = 1, impl: str = "auto") -> None:
        super().__init__(window, stride)
        self.impl = impl

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends."""
        return local_attention(q, k, v, self.window, stride=self.stride, impl=self.impl)


class UnfoldedAttention(Attention):
    """`F.scaled_dot_product_attention` of each query to its unfolded window: K * K copies of keys and values."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends."""
        queries = q[..., :: self.stride, :: self.stride]
        batch, heads, width, height, columns = queries.shape
        one = queries.permute(0, 1, 3, 4, 2).reshape(-1, 1, 1, width)
        keys, values = (self._windows(part) for part in (k, v))
        out = F.scaled_dot_product_attention(one, keys, values)
        return out.reshape(batch, heads, height, columns, width).permute(0, 1, 4, 2, 3)

    def _windows(self, x: Tensor) -> Tensor:
        """[B, N, D, H, W] -> [B * N * H' * W', 1, K * K, D]."""
        unfolded = padded(x, self.window // 2)
        for axis in (3, 4):
            unfolded = unfolded.unfold(axis, self.window, self.stride)
        return unfolded.permute(0, 1, 3, 4, 5, 6, 2).reshape(-1, 1, self.window**2, x.shape[2])


class LayerAround(nn.Module):
    """An ACmix layer whose attention is another one; projections, convolution path and rates are its own.

    Args:
        layer: gives parameters and sizes.
        attention: attends to its q, k - position, v.
    """

    def __init__(self, layer: "layers.ACmix", attention: Attention) -> None:
        super().__init__()
        self.layer, self.attention = layer, attention

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H', W']."""
        layer = self.layer
        children = (layer.query, layer.key, layer.value)
        weight = torch.cat([child.weight for child in children])
        projected = F.conv2d(x, weight, torch.cat([present(child.bias) for child in children]))
        pieces = projected.unflatten(1, (3 * layer.num_heads, layer.head_width))
        q, k, v = pieces.chunk(3, 1)
        if layer.position is not None:
            grid = coordinate_grid(x.shape[2], x.shape[3], layer.position_step, layer.position.weight)
            k = k - layer.position(grid.unsqueeze(0)).to(k.dtype)
        attended = self.attention(q, k, v).flatten(1, 2)
        convolved = layer.convolve(pieces.transpose(1, 2), layer.stride, layer.dilation)
        return layer.mix(attended, convolved)


def padded(x: Tensor, width: int) -> Tensor:
    """[B, N, D, H, W] with `width` reflected rows and columns on each side."""
    out: Tensor = F.pad(x.flatten(0, 1), (width,) * 4, mode="reflect").unflatten(0, x.shape[:2])
    return out
