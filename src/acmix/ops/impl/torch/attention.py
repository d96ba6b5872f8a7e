"""Window attention of the portable backend: tiles of a few megabytes at a time, the backward pass by recomputation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from acmix.ops.impl.torch.attend import Tiles, attend, attend_backward, attention_weights
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
    position: Tensor | None


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
        return self.rows.keys, self.columns.keys

    def blocks(self, q: Tensor, position: Tensor | None) -> Iterator[_Block]:
        """Cut images and rows of tiles so that a block's logits stay within the budget."""
        budget = CPU_LOGITS if q.device.type == "cpu" else DEVICE_LOGITS
        row = q.shape[1] * self.columns.tiles * self.rows.tile * self.columns.tile * self.rows.keys * self.columns.keys
        rows = min(max(budget // row, 1), self.rows.tiles)
        images = max(budget // (row * rows), 1)
        like = q.new_empty((), dtype=self.dtype)
        vertical = log_multiplicity(self.rows, self.window, like)
        horizontal = vertical if self.columns == self.rows else log_multiplicity(self.columns, self.window, like)
        queries, keys = self.rows.query_spans(), self.rows.key_spans(self.window)
        for top in range(0, self.rows.tiles, rows):
            part = slice(top, top + rows)
            bias = vertical[part, None, :, None, :, None] + horizontal[:, None, :, None, :]
            code = None if position is None else self._keys(position[None, None], keys[part])
            for first in range(0, q.shape[0], images):
                bounds = slice(first, first + images)
                yield _Block(bounds, queries[part], keys[part], bias.flatten(-2).flatten(-3, -2), code)

    def tiles(self, block: _Block, q: Tensor, k: Tensor, v: Tensor) -> Tiles:
        """Scaled queries, keys less their position, and values of a block."""
        queries = self.queries(_at_stride(q, self.window), block).mul_(self.window.scale)
        keys = self._keys(k[block.images], block.keys)
        if block.position is not None:
            # Of the tiles, so in the dtype of the logits: that of the inputs may be too coarse for the difference.
            keys.sub_(block.position)
        return Tiles(queries, keys, self._keys(v[block.images], block.keys))

    def queries(self, x: Tensor, block: _Block) -> Tensor:
        """Tiles of something that lies as the outputs do: queries at the stride, or a gradient."""
        return gather_tiles(x[block.images], (block.queries, self.query_columns), self.query_shape, self.dtype)

    def _keys(self, x: Tensor, rows: Spans) -> Tensor:
        return gather_tiles(x, (rows, self.key_columns), self.key_shape, self.dtype)

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


def local_attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, window: Window) -> tuple[Tensor, None]:
    """Output [B, N, D, H', W'] of window attention over [B, N, D, H, W]; no log-sum-exp, which nobody reads here."""
    plan = _plan(q, window)
    out = empty_attention_output(q, window.stride)
    for block in plan.blocks(q, position):
        tiles = plan.tiles(block, q, k, v)
        plan.write_queries(attend(tiles, attention_weights(tiles, block.bias, in_place=True)), out, block)
    return out, None


def local_attention_backward(
    grad: Tensor, tensors: tuple[Tensor, Tensor, Tensor], position: Tensor | None, window: Window
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v [B, N, D, H, W] and of the position [D, H, W]."""
    q, k, v = tensors
    plan = _plan(q, window)
    # Every query's gradient is written once, the keys' add up.
    grad_q = (q.new_empty if window.stride == 1 else q.new_zeros)(q.shape, dtype=plan.dtype)
    grad_k, grad_v = k.new_zeros(k.shape, dtype=plan.dtype), v.new_zeros(v.shape, dtype=plan.dtype)
    for block in plan.blocks(q, position):
        tiles = plan.tiles(block, q, k, v)
        weights = attention_weights(tiles, block.bias, in_place=True)
        grads = attend_backward(plan.queries(grad, block), tiles, weights)
        plan.write_queries(grads.q.mul_(window.scale), _at_stride(grad_q, window), block)
        plan.add_keys(grads.k, grad_k, block)
        plan.add_keys(grads.v, grad_v, block)
    grad_position = None if position is None else grad_k.sum((0, 1)).neg_().to(position.dtype)
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), grad_position
