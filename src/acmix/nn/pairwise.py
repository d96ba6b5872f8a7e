"""Pairwise self-attention of SAN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix.functional import neighbourhood_aggregate
from acmix.nn.batch_statistics import batch_norm_affine
from acmix.nn.position import coordinate_grid
from acmix.nn.recompute import recomputed
from acmix.nn.san_attention import SANAttention
from acmix.nn.two_paths import Factory, present
from acmix.ops.autocast import autocast
from acmix.ops.impl.torch.neighbourhood_graph import pad_by_reflection
from acmix.ops.layout import compute_dtype
from acmix.ops.tracing import is_tracing
from acmix.ops.window_moments import difference_moments

__all__ = ["PairwiseAttention", "PairwiseWeights"]


class PairwiseWeights(nn.Module):
    """The small network that makes SAN's pairwise attention weights, one query and one key at a time.

    Batch norm, ReLU and a 1x1 convolution of [q_i - k_j; p_i - p_j], then the same again, then a softmax over the
    window. Norms run over images, pixels and offsets together. Eager programs compute a row of the window at a time,
    once more in the backward pass; a compiler gets the window unfolded and decides itself what it keeps.

    Args:
        width: channels C of q and of k.
        groups: weights G that a window has at each offset.
        kernel_size: window side K, odd.
        device: where the parameters are made.
        dtype: dtype of the parameters.
    """

    def __init__(
        self,
        width: int,
        groups: int,
        kernel_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.width, self.groups, self.kernel_size = width, groups, kernel_size
        made: Factory = {"device": device, "dtype": dtype}
        self.norm1 = nn.BatchNorm2d(width + 2, **made)
        self.reduce = nn.Conv2d(width + 2, width, 1, bias=False, **made)
        self.norm2 = nn.BatchNorm2d(width, **made)
        self.expand = nn.Conv2d(width, groups, 1, **made)

    def reset_parameters(self) -> None:
        """Every part as torch starts it."""
        for child in self.children():
            child.reset_parameters()  # type: ignore[operator]  # convolutions and norms have the method

    def forward(self, q: Tensor, k: Tensor, position: Tensor) -> Tensor:
        """Queries and keys [B, C, H, W], position code [1, 2, H, W] -> weights [B, G, K * K, H, W], sum 1 each."""
        position = position.to(q.dtype).expand(q.shape[0], -1, -1, -1)
        q, k = torch.cat([q, position], 1), torch.cat([k, position], 1)
        values = q.shape[0] * q.shape[2] * q.shape[3] * self.kernel_size**2
        affine = batch_norm_affine(self.norm1, lambda: difference_moments(q, k, self.kernel_size), values)
        padded = pad_by_reflection(k, self.kernel_size // 2)
        tensors: tuple[Tensor, ...] = (q, padded, *affine, autocast(self.reduce.weight).to(q.dtype))

        # A compiler gets all rows at once: a graph of each would take it minutes.
        count = self.kernel_size if is_tracing() else 1
        starts = range(0, self.kernel_size, count)

        def moments() -> tuple[Tensor, Tensor]:
            """Of the hidden map: rows of the window have as many values each, so their moments are averaged."""
            rows = [recomputed(_hidden_moments, (row, count), *tensors) for row in starts]
            means, variances = (torch.stack(parts) for parts in zip(*rows, strict=True))
            return means.mean(0), variances.mean(0) + means.var(0, correction=0)

        affine = batch_norm_affine(self.norm2, moments, values)
        tensors = (*tensors, *affine, autocast(self.expand.weight).to(q.dtype))
        logits = torch.cat([recomputed(_logits, (row, count), *tensors) for row in starts], 2)
        # The same for all offsets, so that the softmax drops it and its gradient is zero; the authors have it.
        bias = present(self.expand.bias).to(logits.dtype)
        logits = logits + bias[:, None, None]
        window = (self.kernel_size, q.shape[3])
        by_offset = logits.unflatten(3, window).unflatten(2, (self.kernel_size, q.shape[2])).transpose(3, 4)
        weights: Tensor = by_offset.flatten(2, 3).softmax(2)
        return weights


# The first row of a window, and how many rows from there on.
Rows = tuple[int, int]


def _hidden(rows: Rows, *tensors: Tensor) -> Tensor:
    """Norm, ReLU and convolution of the differences in n rows of all windows: [B, C, n * H, K * W]."""
    q, padded, scale, shift, weight = tensors
    height, width = q.shape[2:]
    row, count = rows
    kernel_size = 1 + padded.shape[3] - width
    keys = torch.cat([padded[:, :, y : y + height] for y in range(row, row + count)], 2)
    keys = torch.cat([keys[..., x : x + width] for x in range(kernel_size)], 3)
    return _projected(q.repeat(1, 1, count, kernel_size) - keys, scale, shift, weight)


def _projected(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
    """Norm, ReLU and convolution, rounded once."""
    rectified = torch.addcmul(shift[:, None, None], x, scale[:, None, None]).relu()
    return F.conv2d(rectified.to(weight.dtype), weight)


def _hidden_moments(rows: Rows, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    hidden = _hidden(rows, *tensors)
    var, mean = torch.var_mean(hidden.to(compute_dtype(hidden.dtype)), (0, 2, 3), correction=0)
    return mean, var


def _logits(rows: Rows, *tensors: Tensor) -> Tensor:
    *first, scale, shift, weight = tensors
    return _projected(_hidden(rows, *first), scale, shift, weight)


class PairwiseAttention(SANAttention):
    """Pairwise self-attention as SAN has it, in place of a convolution: [B, C_in, H, W] -> [B, C_out, H, W].

    Weights come from differences of queries and keys and of their positions, a softmax over the window makes their sum
    1. Arguments and errors are those of `SANAttention`.

    Example:
        >>> PairwiseAttention(64, 16, 3)(torch.randn(1, 64, 28, 28)).shape
        torch.Size([1, 16, 28, 28])
    """

    def _add_weights(self, width: int, groups: int, made: Factory) -> None:
        # Its bias cancels in the differences: the gradient is zero. The authors have it.
        self.position = nn.Conv2d(2, 2, 1, **made)
        self.weights = PairwiseWeights(width, groups, self.kernel_size, **made)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """[B, C_in, H, W], through `norm` and ReLU if there is one, -> [B, C, H, W] in the memory format of x."""
        q, k, v = self.project(x, norm)
        position = self.position(coordinate_grid(q.shape[2], q.shape[3], None, self.position.weight).unsqueeze(0))
        return neighbourhood_aggregate(self.weights(q, k, position), v, self.kernel_size, impl=self.impl)
