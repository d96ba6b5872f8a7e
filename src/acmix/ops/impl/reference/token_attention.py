"""Attention of tokens to tokens as the paper writes it: logits, softmax, sum of values."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["token_attention"]


def token_attention(q: Tensor, kv: Tensor, num_heads: int, dropout: float) -> Tensor:
    """`softmax(q k^T / sqrt(D)) v` of every head (paper Eq. 11 and 12); shapes as in `acmix.ops.token_attention`."""
    queries = q.unflatten(2, (num_heads, -1)).transpose(1, 2)
    keys, values = kv.unflatten(2, (2, num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = queries @ keys.mT * queries.shape[-1] ** -0.5
    weights = F.dropout(logits.softmax(-1), dropout)
    attended: Tensor = weights @ values
    return attended.transpose(1, 2).flatten(2)
