"""Tiles of queries and the keys that they reach, along one axis and over a map.

A tile of t queries needs the keys from its first query minus r * d to its last plus r * d. These spans are clamped
into the image and all have one length, so that whole tiles go through batched matrix products; what a query must not
see, and what reflection shows it twice, stands in the log of the multiplicity that is added to the logits.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from acmix.ops.geometry import multiplicity, output_size

__all__ = [
    "Axis",
    "Spans",
    "Window",
    "add_tiles",
    "gather_tiles",
    "log_multiplicity",
    "plan_axis",
    "plan_axis_of_any_size",
    "write_tiles",
]

# 8 queries a side: measured fastest of 4, 7, 8 and 14 at the maps of ResNet-50 (K = 7, two cores).
MAX_TILE = 8

# Where all tiles are in memory at once: a smaller tile has fewer keys that no query sees.
GRAPH_TILE = 4

Spans = list[tuple[int, int]]


class Window(NamedTuple):
    """The options of window attention: side K, stride s, dilation d, factor on the logits."""

    kernel_size: int
    stride: int
    dilation: int
    scale: float

    @property
    def reach(self) -> int:
        """Distance from a query to its farthest key, r * d pixels."""
        return (self.kernel_size - 1) // 2 * self.dilation

    def span(self, queries: int) -> int:
        """Pixels from the first to the last key of so many neighbouring queries."""
        return (queries - 1) * self.stride + 1 + 2 * self.reach


class Axis(NamedTuple):
    """How one axis of `size` pixels and `outputs` queries is cut: `tiles` tiles of `tile` queries with `keys` keys."""

    size: int
    outputs: int
    tiles: int
    tile: int
    keys: int

    def key_starts(self, window: Window, device: torch.device | None = None) -> Tensor:
        """First key of each tile's span: int64 [tiles]."""
        first = torch.arange(self.tiles, device=device) * (self.tile * window.stride) - window.reach
        return first.clamp(min=0).clamp(max=self.size - self.keys)

    def query_positions(self, window: Window, device: torch.device | None = None) -> Tensor:
        """Input position of each query: int64 [tiles, tile]; queries past the end repeat the last one."""
        index = torch.arange(self.tiles * self.tile, device=device).clamp(max=self.outputs - 1)
        positions: Tensor = index.unflatten(0, (self.tiles, self.tile)) * window.stride
        return positions

    def key_positions(self, window: Window, device: torch.device | None = None) -> Tensor:
        """Input position of each key: int64 [tiles, keys]."""
        return self.key_starts(window, device)[:, None] + torch.arange(self.keys, device=device)

    def query_spans(self) -> Spans:
        """Output positions of each tile, the last one perhaps shorter."""
        return [(i * self.tile, min((i + 1) * self.tile, self.outputs)) for i in range(self.tiles)]

    def key_spans(self, window: Window) -> Spans:
        """Input positions of each tile's keys, as plain integers."""
        step, last = self.tile * window.stride, self.size - self.keys
        starts = (min(max(i * step - window.reach, 0), last) for i in range(self.tiles))
        return [(start, start + self.keys) for start in starts]


class _Run(NamedTuple):
    """Spans of one length at equal distances: their tiles, and where they lie."""

    tiles: slice
    start: int
    step: int
    length: int
    spans: int

    @property
    def stop(self) -> int:
        return self.start + (self.spans - 1) * self.step + self.length


def _runs(spans: Spans, apart: bool) -> list[_Run]:
    """Group spans into runs; with `apart`, spans of a run do not overlap."""
    runs: list[_Run] = []
    first = 0
    while first < len(spans):
        start, length = spans[first][0], spans[first][1] - spans[first][0]
        last = first
        step = length if first + 1 == len(spans) else spans[first + 1][0] - start
        while last + 1 < len(spans) and step > 0 and spans[last + 1] == (spans[last][0] + step, spans[last][1] + step):
            last += 1
        count = last - first + 1
        step = step if count > 1 else length
        phases = -(-length // step) if apart else 1
        for phase in range(min(phases, count)):
            tiles = slice(first + phase, last + 1, phases)
            runs.append(_Run(tiles, start + phase * step, step * phases, length, len(range(count)[phase::phases])))
        first = last + 1
    return runs


def plan_axis(size: int, window: Window) -> Axis:
    """Cut an axis of `size` pixels into tiles as equal as can be."""
    outputs = output_size(size, window.stride)
    tiles = (outputs + MAX_TILE - 1) // MAX_TILE
    tile = (outputs + tiles - 1) // tiles
    return Axis(size, outputs, tiles, tile, min(window.span(tile), size))


def plan_axis_of_any_size(size: int, window: Window) -> Axis:
    """Cut an axis so that nothing but the number of tiles depends on its size, which may be symbolic.

    A span may then reach over the border; what lies there has the multiplicity 0. A symbolic number of tiles gets a
    spare one: where it could be 1, tracers would take it for the constant that it is in their example.
    """
    outputs = output_size(size, window.stride)
    tiles = (outputs + GRAPH_TILE - 1) // GRAPH_TILE + (0 if isinstance(size, int) else 1)
    return Axis(size, outputs, tiles, GRAPH_TILE, window.span(GRAPH_TILE))


def log_multiplicity(axis: Axis, window: Window, like: Tensor) -> Tensor:
    """Log of each key's count in each query's window: [tiles, tile, keys], -inf where a key is out of the window."""
    queries, keys = axis.query_positions(window, like.device), axis.key_positions(window, like.device)
    counts = multiplicity(queries, keys, axis.size, window.kernel_size, window.dilation)
    # Not simply the log of 0: exporters that fold constants warn of it.
    return counts.clamp(min=1).to(like.dtype).log().masked_fill(counts == 0, -math.inf)


def _views(x: Tensor, tiles: Tensor, spans: tuple[Spans, Spans], apart: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of equal shape: a part of a map [B, N, D, H, W] cut into overlapping windows, and its part of the tiles.

    Tiles whose spans are equally far from each other go together as one strided view, so that a map takes a handful of
    copies however many tiles it has. With `apart`, no view overlaps itself: it can be added to in place.
    """
    for row in _runs(spans[0], apart):
        strip = x[:, :, :, row.start : row.stop].unfold(3, row.length, row.step)
        for column in _runs(spans[1], apart):
            part = strip[:, :, :, :, column.start : column.stop].unfold(4, column.length, column.step)
            target = tiles[:, :, row.tiles, column.tiles, :, : row.length, : column.length]
            yield part.permute(0, 1, 3, 4, 2, 5, 6), target


def gather_tiles(x: Tensor, spans: tuple[Spans, Spans], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Copy spans (rows, columns) of [B, N, D, H, W] to [B, N, rows, columns, D, h * w].

    A span shorter than `shape` is filled up with zeros.
    """
    rows, columns = spans
    whole = all(stop - start == size for part, size in zip(spans, shape, strict=True) for start, stop in part)
    make = x.new_empty if whole else x.new_zeros
    tiles = make((*x.shape[:2], len(rows), len(columns), x.shape[2], *shape), dtype=dtype)
    for part, target in _views(x, tiles, spans, apart=False):
        target.copy_(part)
    return tiles.flatten(-2)


def write_tiles(tiles: Tensor, target: Tensor, spans: tuple[Spans, Spans], shape: tuple[int, int]) -> None:
    """Inverse of `gather_tiles` for spans that do not overlap."""
    for part, source in _views(target, tiles.unflatten(-1, shape), spans, apart=False):
        part.copy_(source)


def add_tiles(tiles: Tensor, target: Tensor, spans: tuple[Spans, Spans], shape: tuple[int, int]) -> None:
    """Adjoint of `gather_tiles`: overlapping spans add up, in a fixed order, so that two runs agree to the bit."""
    for part, source in _views(target, tiles.unflatten(-1, shape), spans, apart=True):
        part.add_(source)
