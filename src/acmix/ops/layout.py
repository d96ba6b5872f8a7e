"""Dtypes and memory layouts that every backend and the fake kernels agree on."""

import torch
from torch import Tensor

from acmix.ops.geometry import output_size

__all__ = ["compute_dtype", "empty_attention_output", "is_channels_last"]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Logits, softmax and sums are held in float32 at least: the inputs' dtype rounds only what goes in and out."""
    return torch.promote_types(dtype, torch.float32)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of [B, N, D, H, W] lie closer together than its columns."""
    return x.stride(4) != 1 and x.stride(2) < x.stride(4)


def empty_attention_output(q: Tensor, stride: int) -> Tensor:
    """Uninitialised [B, N, D, ceil(H / s), ceil(W / s)] whose channels lie as those of q [B, N, D, H, W] do."""
    batch, heads, width, height, columns = q.shape
    height, columns = output_size(height, stride), output_size(columns, stride)
    if is_channels_last(q):
        return q.new_empty((batch, height, columns, heads, width)).permute(0, 3, 4, 1, 2)
    return q.new_empty((batch, heads, width, height, columns))
