"""Attention within windows in the order of Swin: pad, cut into windows, logits, bias, mask, softmax, sum of values."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["window_attention"]

Pair = tuple[int, int]

# What Swin adds to the logit of a key from another part of the map; the authors' weights were trained with it.
_OTHER_PART = -100.0


def _cut(x: Tensor, window: Pair) -> Tensor:
    """[B, H, W, ...] -> [B, windows, K * K, ...]; H and W are multiples of the window's sides."""
    rows, columns = window
    tall, wide = x.shape[1] // rows, x.shape[2] // columns
    x = x.reshape(x.shape[0], tall, rows, wide, columns, *x.shape[3:]).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)


def _parts(size: Pair, window: Pair, shift: Pair, device: torch.device) -> Tensor:
    """[1, H, W]: the number of the part of the map that a place of the rolled map comes from."""
    number = torch.zeros(size, dtype=torch.int64, device=device)
    for axis in (0, 1):
        # The last window of an axis has rows of both ends where the map is rolled.
        index = torch.arange(size[axis], device=device)
        along = (index >= size[axis] - window[axis]).long() + (index >= size[axis] - shift[axis]).long()
        number = 3 * number + (along.unsqueeze(1) if axis == 0 else along)
    return number.unsqueeze(0)


def window_attention(
    qkv: Tensor, bias: Tensor, outside: Tensor | None, *, window: Pair, shift: Pair, dropout: float
) -> Tensor:
    """`softmax(q k^T / sqrt(D) + bias + mask) v` within every window.

    Shapes as in `acmix.ops.window_attention`. The gradient is torch's own, through the weights of all windows.
    """
    batch, height, width, head_width, pieces = qkv.shape
    rows, columns = -(-height // window[0]), -(-width // window[1])
    tall, wide = rows * window[0], columns * window[1]
    beyond = qkv.new_zeros(head_width, pieces) if outside is None else outside
    padded = beyond.expand(batch, tall, wide, head_width, pieces).clone()
    padded[:, :height, :width] = qkv
    # [B, windows, K * K, D, 3, N] -> three of [B, windows, N, K * K, D]
    q, k, v = _cut(padded, window).unflatten(4, (3, pieces // 3)).permute(4, 0, 1, 5, 2, 3)
    logits = q @ k.mT * head_width**-0.5 + bias
    if any(shift):
        part = _cut(_parts((tall, wide), window, shift, qkv.device), window)
        mask = (part.unsqueeze(3) != part.unsqueeze(2)).to(logits.dtype) * _OTHER_PART
        logits = logits + mask.unsqueeze(2)
    weights = F.dropout(logits.softmax(-1), dropout)
    # [B, windows, K * K, N, D], and back to the map
    out: Tensor = (weights @ v).transpose(2, 3).unflatten(2, window).unflatten(1, (rows, columns)).transpose(2, 3)
    return out.reshape(batch, tall, wide, -1)[:, :height, :width]
