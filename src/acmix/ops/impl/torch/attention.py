"""Window attention of the portable backend: tiles of a few megabytes at a time, the backward pass by recomputation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from acmix.ops.impl.torch.attend import Tiles, attend_backward, attention_weights
from acmix.ops.impl.torch.tiles import (
    Axis,
    Spans,
    Window,
    add_tiles,
    gather_tiles,
    log_multiplicity,
    plan_axis,
    write_tiles,
)
from acmix.ops.layout import compute_dtype, empty_attention_output

__all__ = ["local_attention", "local_attention_backward"]

# Logits held at a time. On a CPU 4 MiB stay in the cache and are not given back to the system between two tiles;
# elsewhere few large launches are what counts.
CPU_LOGITS = 1 << 20
DEVICE_LOGITS = 1 << 26


class _Block(NamedTuple):
    """One round of work: some images, some rows of tiles."""

    images: slice
    queries: Spans
    keys: Spans
    bias: Tensor


class _Plan(NamedTuple):
    """How a map is worked through."""

    rows: Axis
    columns: Axis
    query_columns: Spans
    key_columns: Spans
    window: Window
    dtype: torch.dtype

    @property
    def query_shape(self) -> tuple[int, int]:
        return self.rows.tile, self.columns.tile

    @property
    def key_shape(self) -> tuple[int, int]:
        return self.rows.length, self.columns.length

    def blocks(self, q: Tensor) -> Iterator[_Block]:
        """Cut images and rows of tiles so that a block's logits stay within the budget."""
        budget = CPU_LOGITS if q.device.type == "cpu" else DEVICE_LOGITS
        row = q.shape[1] * self.columns.count * self.rows.tile * self.columns.tile * self.rows.length
        row *= self.columns.length
        rows = min(max(budget // max(row, 1), 1), self.rows.count)
        images = max(budget // max(row * rows, 1), 1)
        like = q.new_empty((), dtype=self.dtype)
        vertical = log_multiplicity(self.rows, self.window, like)
        horizontal = log_multiplicity(self.columns, self.window, like)
        queries, keys = self.rows.query_spans(), self.rows.key_spans(self.window)
        for top in range(0, self.rows.count, rows):
            part = vertical[top : top + rows, None, :, None, :, None] + horizontal[:, None, :, None, :]
            bias = part.flatten(-2).flatten(-3, -2)
            for first in range(0, q.shape[0], images):
                yield _Block(slice(first, first + images), queries[top : top + rows], keys[top : top + rows], bias)

    def tiles(self, block: _Block, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None) -> Tiles:
        """Scaled queries, keys less their position, and values of a block."""
        keys = k[block.images] if position is None else k[block.images] - position
        return Tiles(
            q=self.queries(q, block).mul_(self.window.scale),
            k=self._keys(keys, block),
            v=self._keys(v[block.images], block),
        )

    def queries(self, x: Tensor, block: _Block) -> Tensor:
        """Tiles of something that lies as the outputs do: queries at the stride, or a gradient."""
        return gather_tiles(x[block.images], (block.queries, self.query_columns), self.query_shape, self.dtype)

    def _keys(self, x: Tensor, block: _Block) -> Tensor:
        return gather_tiles(x, (block.keys, self.key_columns), self.key_shape, self.dtype)

    def write_queries(self, tiles: Tensor, target: Tensor, block: _Block) -> None:
        """Put a block's tiles where its queries are."""
        write_tiles(tiles, target[block.images], (block.queries, self.query_columns), self.query_shape)

    def add_keys(self, tiles: Tensor, target: Tensor, block: _Block) -> None:
        """Add a block's tiles where its keys are."""
        add_tiles(tiles, target[block.images], (block.keys, self.key_columns), self.key_shape)


def _plan(q: Tensor, window: Window) -> _Plan:
    rows, columns = plan_axis(q.shape[3], window), plan_axis(q.shape[4], window)
    return _Plan(rows, columns, columns.query_spans(), columns.key_spans(window), window, compute_dtype(q.dtype))


def _at_stride(x: Tensor, window: Window) -> Tensor:
    return x[..., :: window.stride, :: window.stride]


def local_attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, window: Window) -> tuple[Tensor, Tensor]:
    """Output [B, N, D, H', W'] and log-sum-exp [B, N, H', W'] of window attention over [B, N, D, H, W]."""
    plan = _plan(q, window)
    out = empty_attention_output(q, window.stride)
    lse = q.new_empty((*q.shape[:2], 1, *out.shape[3:]), dtype=plan.dtype)
    for block in plan.blocks(q):
        tiles = plan.tiles(block, _at_stride(q, window), k, v, position)
        weights, log_sum_exp = attention_weights(tiles.q, tiles.k, block.bias)
        plan.write_queries(torch.matmul(tiles.v, weights.mT), out, block)
        plan.write_queries(log_sum_exp.unsqueeze(-2), lse, block)
    return out, lse.squeeze(2)


def local_attention_backward(
    grad: Tensor, tensors: tuple[Tensor, Tensor, Tensor], position: Tensor | None, window: Window
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v [B, N, D, H, W] and of the position [D, H, W]."""
    q, k, v = tensors
    plan = _plan(q, window)
    grad_q, grad_k, grad_v = (x.new_zeros(x.shape, dtype=plan.dtype) for x in tensors)
    for block in plan.blocks(q):
        tiles = plan.tiles(block, _at_stride(q, window), k, v, position)
        grads = attend_backward(plan.queries(grad, block), tiles, block.bias)
        plan.write_queries(grads.q * window.scale, _at_stride(grad_q, window), block)
        plan.add_keys(grads.k, grad_k, block)
        plan.add_keys(grads.v, grad_v, block)
    grad_position = None if position is None else grad_k.sum((0, 1)).neg_().to(position.dtype)
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), grad_position
