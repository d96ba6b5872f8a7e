"""Dtypes and memory layouts that every backend and the fake kernels agree on."""

import torch
from torch import Tensor

from acmix.ops.geometry import output_size

__all__ = [
    "as_pieces",
    "as_pieces_output",
    "compute_dtype",
    "empty_attention_output",
    "empty_pieces",
    "empty_pieces_output",
    "is_channels_last",
]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Logits, softmax and sums are held in float32 at least: the inputs' dtype rounds only what goes in and out."""
    return torch.promote_types(dtype, torch.float32)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of [B, N, D, H, W], or the pieces of [B, D, P, H, W], lie closer together than columns."""
    return x.stride(4) != 1 and x.stride(2) < x.stride(4)


def _empty(like: Tensor, channels: tuple[int, ...], height: int, width: int) -> Tensor:
    """Uninitialised [B, *channels, H, W] in one of two dense layouts: pixels last, or channels last as `like` is."""
    batch = like.shape[0]
    if is_channels_last(like):
        return like.new_empty((batch, height, width, *channels)).movedim((1, 2), (-2, -1))
    return like.new_empty((batch, *channels, height, width))


def empty_attention_output(q: Tensor, stride: int) -> Tensor:
    """Uninitialised [B, N, D, ceil(H / s), ceil(W / s)] whose channels lie as those of q [B, N, D, H, W] do."""
    _, heads, width, height, columns = q.shape
    return _empty(q, (heads, width), output_size(height, stride), output_size(columns, stride))


def empty_pieces(pieces: Tensor) -> Tensor:
    """Uninitialised [B, D, P, H, W], dense, whose channels lie as those of the pieces do."""
    _, groups, count, height, width = pieces.shape
    return _empty(pieces, (groups, count), height, width)


def empty_pieces_output(pieces: Tensor, channels: int, stride: int) -> Tensor:
    """Uninitialised [B, C, ceil(H / s), ceil(W / s)] whose channels lie as those of the pieces do."""
    height, width = (output_size(size, stride) for size in pieces.shape[3:])
    return _empty(pieces, (channels,), height, width)


def as_pieces(x: Tensor, pieces: Tensor) -> Tensor:
    """`x` [B, D, P, H, W] laid out as `empty_pieces` says, copied where it is not yet."""
    if is_channels_last(pieces):
        return x.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))
    return x.contiguous()


def as_pieces_output(x: Tensor, pieces: Tensor) -> Tensor:
    """`x` [B, C, H', W'] laid out as `empty_pieces_output` says, copied where it is not yet."""
    return x.contiguous(memory_format=torch.channels_last if is_channels_last(pieces) else torch.contiguous_format)
