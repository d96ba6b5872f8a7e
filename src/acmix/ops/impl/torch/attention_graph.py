"""Window attention as a graph of plain differentiable torch functions, all tiles at once.

The eager backend works block by block into buffers; this form has no buffers and no loops over sizes, so that it can
be traced with symbolic sizes (ONNX) and differentiated any number of times (double backward). Same tiles, same
mathematics.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.impl.torch.attend import Tiles, attend, attend_backward, attention_weights
from acmix.ops.impl.torch.tiles import Axis, Window, log_multiplicity, plan_axis, plan_axis_of_any_size
from acmix.ops.layout import compute_dtype

__all__ = ["attention_backward_graph", "attention_graph"]


class _Grid(NamedTuple):
    rows: Axis
    columns: Axis
    window: Window

    def bias(self, like: Tensor) -> Tensor:
        vertical = log_multiplicity(self.rows, self.window, like)[:, None, :, None, :, None]
        horizontal = log_multiplicity(self.columns, self.window, like)[:, None, :, None, :]
        return (vertical + horizontal).flatten(-2).flatten(-3, -2)

    def gather(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """[B, N, D, H, W] -> [B, N, rows, columns, D, h * w], by positions [rows, h] and [columns, w]."""
        x = x.index_select(3, rows.flatten()).index_select(4, columns.flatten())
        x = x.unflatten(4, columns.shape).unflatten(3, rows.shape)
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(-2)

    def scatter(self, tiles: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Adjoint of `gather`."""
        tiles = tiles.unflatten(-1, (rows.shape[1], columns.shape[1])).permute(0, 1, 4, 2, 5, 3, 6)
        tiles = tiles.flatten(5).flatten(3, 4)
        map_rows = tiles.new_zeros((*tiles.shape[:3], self.rows.size, tiles.shape[4]))
        tiles = map_rows.index_add(3, rows.flatten(), tiles)
        map_columns = tiles.new_zeros((*tiles.shape[:4], self.columns.size))
        return map_columns.index_add(4, columns.flatten(), tiles)

    def outputs(self, tiles: Tensor) -> Tensor:
        """[B, N, rows, columns, D, t * t] -> [B, N, D, H', W']."""
        tiles = tiles.unflatten(-1, (self.rows.tile, self.columns.tile)).permute(0, 1, 4, 2, 5, 3, 6)
        return tiles.flatten(5).flatten(3, 4)[..., : self.rows.outputs, : self.columns.outputs]

    def gather_gradient(self, grad: Tensor) -> Tensor:
        """Adjoint of `outputs`."""
        below = self.rows.tiles * self.rows.tile - self.rows.outputs
        right = self.columns.tiles * self.columns.tile - self.columns.outputs
        grad = F.pad(grad, (0, right, 0, below)).unflatten(4, (self.columns.tiles, self.columns.tile))
        grad = grad.unflatten(3, (self.rows.tiles, self.rows.tile))
        return grad.permute(0, 1, 3, 5, 2, 4, 6).flatten(-2)

    def positions(self, device: torch.device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Rows and columns of the queries, rows and columns of the keys."""
        axes, window = (self.rows, self.columns), self.window
        rows, columns = (axis.query_positions(window, device) for axis in axes)
        # Clamped: a span that reaches over the border has keys there that weigh nothing.
        keys = (axis.key_positions(window, device).clamp(min=0).clamp(max=axis.size - 1) for axis in axes)
        key_rows, key_columns = keys
        return (rows, columns), (key_rows, key_columns)


def _tiles(grid: _Grid, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> Tiles:
    queries, keys = grid.positions(q.device)
    dtype = compute_dtype(q.dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    k = k if position is None else k - position.to(dtype)
    return Tiles(grid.gather(q * grid.window.scale, *queries), grid.gather(k, *keys), grid.gather(v, *keys))


def attention_graph(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, window: Window) -> Tensor:
    """Output [B, N, D, H', W'] of window attention over [B, N, D, H, W], H and W perhaps symbolic."""
    rows, columns = (plan_axis_of_any_size(size, window) for size in q.shape[3:])
    grid = _Grid(rows, columns, window)
    tiles = _tiles(grid, q, k, v, position)
    weights = attention_weights(tiles, grid.bias(tiles.q), in_place=False)
    return grid.outputs(attend(tiles, weights)).to(q.dtype)


def attention_backward_graph(
    grad: Tensor, tensors: tuple[Tensor, Tensor, Tensor], position: Tensor | None, window: Window
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v [B, N, D, H, W] and of the position [D, H, W], themselves differentiable."""
    q, k, v = tensors
    grid = _Grid(plan_axis(q.shape[3], window), plan_axis(q.shape[4], window), window)
    tiles = _tiles(grid, q, k, v, position)
    queries, keys = grid.positions(q.device)
    weights = attention_weights(tiles, grid.bias(tiles.q), in_place=False)
    grads = attend_backward(grid.gather_gradient(grad.to(tiles.q.dtype)), tiles, weights)
    grad_q = grid.scatter(grads.q * window.scale, *queries)
    grad_k, grad_v = grid.scatter(grads.k, *keys), grid.scatter(grads.v, *keys)
    grad_position = None if position is None else -grad_k.sum((0, 1)).to(position.dtype)
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), grad_position
