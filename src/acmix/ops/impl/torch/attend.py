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


def attention_weights(tiles: Tiles, bias: Tensor, in_place: bool) -> Tensor:
    """Softmax weights [..., t, l].

    Args:
        tiles: queries, keys and values.
        bias: log multiplicity, broadcast to the weights.
        in_place: whether to add the bias in place. A second tensor of this size is what the tiles exist to avoid, but
            some tracers refuse it.
    """
    logits = torch.matmul(tiles.q.mT, tiles.k)
    return (logits.add_(bias) if in_place else logits + bias).softmax(-1)


def attend(tiles: Tiles, weights: Tensor) -> Tensor:
    """Output tiles [..., D, t]."""
    return torch.matmul(tiles.v, weights.mT)


def attend_backward(grad: Tensor, tiles: Tiles, weights: Tensor) -> Tiles:
    """Gradients of q (as scaled), k and v tiles from that of the output.

    Every step is a differentiable torch function, so the same code serves a double backward.
    """
    q, k, v = tiles
    grad_weights = torch.matmul(grad.mT, v)
    grad_logits = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    return Tiles(q=torch.matmul(k, grad_logits.mT), k=torch.matmul(q, grad_logits), v=torch.matmul(grad, weights))
