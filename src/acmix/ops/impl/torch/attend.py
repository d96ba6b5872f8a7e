"""Attention of tiles: the mathematics of the portable backend, forward and backward, in batched matrix products.

Tiles are [..., D, t] (queries, gradients, outputs) and [..., D, l] (keys, values); logits are [..., t, l].
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Tiles", "attend", "attend_backward"]


class Tiles(NamedTuple):
    """Queries times the scale, keys less their position, values; or the gradients of these."""

    q: Tensor
    k: Tensor
    v: Tensor


def _weights(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """Softmax weights [..., t, l]; `bias` is the log multiplicity, broadcast to them."""
    # In place: the product is fresh, and a second tensor of this size is what the tiles exist to avoid.
    return torch.matmul(q.mT, k).add_(bias).softmax(-1)


def attend(tiles: Tiles, bias: Tensor) -> Tensor:
    """Output tiles [..., D, t]."""
    return torch.matmul(tiles.v, _weights(tiles.q, tiles.k, bias).mT)


def attend_backward(grad: Tensor, tiles: Tiles, bias: Tensor) -> Tiles:
    """Gradients of q (as scaled), k and v tiles, the weights computed again.

    Every step is a differentiable torch function, so the same code serves a double backward.
    """
    q, k, v = tiles
    weights = _weights(q, k, bias)
    grad_weights = torch.matmul(grad.mT, v)
    grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    return Tiles(q=torch.matmul(k, grad_logits.mT), k=torch.matmul(q, grad_logits), v=torch.matmul(grad, weights))
