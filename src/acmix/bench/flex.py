"""Window attention by FlexAttention: dense attention over the reflected map, with a block mask for the window."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.bench.settings import Mode
from acmix.bench.variants import Attention, padded

__all__ = ["FlexWindowAttention", "why_not_flex"]


class _Place(NamedTuple):
    """What a mask was made for."""

    height: int
    width: int
    device: torch.device


class FlexWindowAttention(Attention):
    """`flex_attention`, compiled, whose mask lets each query see its K x K window of the padded map.

    The mask is made once for each size of map, in the first call.

    Args:
        window: side K of the window.
        stride: stride s of the queries.
    """

    def __init__(self, window: int, stride: int = 1) -> None:
        super().__init__(window, stride)
        # Compiled for each size by itself: what is shared by all sizes would be slower.
        from torch.nn.attention.flex_attention import flex_attention

        self._attend: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
        self._masks: dict[_Place, Any] = {}

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends."""
        mask = self._mask(_Place(q.shape[3], q.shape[4], q.device))
        queries = q[..., :: self.stride, :: self.stride]
        tokens = (part.flatten(3).mT.contiguous() for part in (queries, *(padded(x, self.window // 2) for x in (k, v))))
        out: Tensor = self._attend(*tokens, block_mask=mask)
        merged: Tensor = out.mT.unflatten(3, queries.shape[3:])
        return merged

    def _mask(self, place: _Place) -> Any:
        if place not in self._masks:
            self._masks[place] = _window_mask(place, self.window, self.stride)
        return self._masks[place]


def _window_mask(place: _Place, window: int, stride: int) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    columns, wide = -(-place.width // stride), place.width + window - 1
    rows, high = -(-place.height // stride), place.height + window - 1

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # The upper left key of a query's window has the query's own coordinates on the padded map.
        below = key // wide - query // columns * stride
        right = key % wide - query % columns * stride
        return (below >= 0) & (below < window) & (right >= 0) & (right < window)

    return create_block_mask(sees, None, None, rows * columns, high * wide, device=place.device.type)


def why_not_flex(mode: Mode, device: str) -> str | None:
    """Why FlexAttention cannot be measured here."""
    if device == "cpu" and mode == "training":
        return "FlexAttention has no backward pass on the CPU"
    return None
