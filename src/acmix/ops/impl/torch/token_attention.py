"""Attention of tokens to tokens on torch's own operator, which keeps no weights and is differentiable as it is."""

import torch.nn.functional as F
from torch import Tensor

from acmix.ops.layout import compute_dtype

__all__ = ["token_attention", "token_attention_graph"]

Heads = tuple[Tensor, Tensor, Tensor]


def _heads(q: Tensor, kv: Tensor, num_heads: int) -> Heads:
    """[B, L, C] and [B, S, 2 C] -> q, k and v: [B, N, tokens, D]."""
    queries = q.unflatten(2, (num_heads, -1)).transpose(1, 2)
    keys, values = kv.unflatten(2, (2, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return queries, keys, values


def token_attention(q: Tensor, kv: Tensor, num_heads: int, dropout: float) -> Tensor:
    """[B, L, C] and [B, S, 2 C] -> [B, L, C], see `acmix.ops.token_attention`."""
    attended = F.scaled_dot_product_attention(*_heads(q, kv, num_heads), dropout_p=dropout)
    return attended.transpose(1, 2).flatten(2)


def token_attention_graph(q: Tensor, kv: Tensor, num_heads: int, dropout: float) -> Tensor:
    """The same for forward-mode differentiation, which torch's operator does not have."""
    queries, keys, values = (x.to(compute_dtype(x.dtype)) for x in _heads(q, kv, num_heads))
    weights = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(-1)
    attended: Tensor = F.dropout(weights, dropout) @ values
    return attended.transpose(1, 2).flatten(2).to(q.dtype)
