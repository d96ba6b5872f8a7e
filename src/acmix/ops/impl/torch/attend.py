"""Attention of tiles: the mathematics of the portable backend, forward and backward, in batched matrix products.

Tiles are [..., D, t] (queries, gradients, outputs) and [..., D, l] (keys, values); logits are [..., t, l].
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tiles", "attend", "attend_backward", "attention_weights"]


class Tiles(NamedTuple):
    """Queries times the scale, keys less their position, values; or the gradients of these."""

    q: Tensor
    k: Tensor
    v: Tensor


def _logits(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    # In place: the product is fresh, and a second tensor of this size is what the tiles exist to avoid.
    return torch.matmul(q.mT, k).add_(bias)


def attention_weights(q: Tensor, k: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax weights [..., t, l] and log-sum-exp of the logits [..., t].

    Args:
        q: queries times the scale [..., D, t].
        k: keys less their position [..., D, l].
        bias: log multiplicity, broadcast to [..., t, l].
    """
    logits = _logits(q, k, bias)
    weights = logits.softmax(-1)
    # At the largest logit the weight cannot underflow, so this is exact and cheaper than a second exponential.
    log_sum_exp = logits.amax(-1) - weights.amax(-1).log()
    return weights, log_sum_exp


def attend(tiles: Tiles, bias: Tensor) -> Tensor:
    """Output tiles [..., D, t]."""
    return torch.matmul(tiles.v, _logits(tiles.q, tiles.k, bias).softmax(-1).mT)


def attend_backward(grad: Tensor, tiles: Tiles, bias: Tensor) -> Tiles:
    """Gradients of q (as scaled), k and v tiles, the weights computed again.

    Every step is a differentiable torch function, so the same code serves a double backward.
    """
    q, k, v = tiles
    weights = _logits(q, k, bias).softmax(-1)
    grad_weights = torch.matmul(grad.mT, v)
    grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    return Tiles(q=torch.matmul(k, grad_logits.mT), k=torch.matmul(q, grad_logits), v=torch.matmul(grad, weights))
