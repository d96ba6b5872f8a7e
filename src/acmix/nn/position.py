"""The coordinate grid behind the position code."""

import math
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from acmix.ops.tracing import is_watched

__all__ = ["check_step", "coordinate_grid"]


def check_step(op: str, step: float | None) -> None:
    """Raise ValueError unless `step` is None or a positive finite number."""
    if step is None:
        return
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < math.inf:
        raise ValueError(f"{op}: position_step={step!r}, expected a positive number, or None for the authors' grid.")


def _authors_axis(size: int, device: torch.device) -> Tensor:
    """The values of float32 `torch.linspace(-1, 1, size)`, which the authors' outputs were made with, to the last bit.

    Not linspace itself: its number of steps becomes a constant when a model is exported with dynamic sizes. It runs
    from both ends to the middle and rounds once, hence the halves and the float64 (MPS has none, and rounds twice).
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    # A tensor under torch.jit.trace, a SymInt under the other tracers.
    last = (size - 1).clamp(min=1) if isinstance(size, Tensor) else cast("int", torch.sym_max(size - 1, 1))
    step = torch.full((), 2.0, dtype=torch.float32, device=device).div(last).to(wide)
    index = torch.arange(size, device=device)
    return torch.where(index < size // 2, step * index - 1.0, 1.0 - step * (last - index)).float()


def _coordinates(size: int, step: float | None, like: Tensor) -> Tensor:
    if step is None:
        return _authors_axis(size, like.device)
    return torch.arange(size, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32)) * step


def coordinate_grid(height: int, width: int, step: float | None, like: Tensor) -> Tensor:
    """Column and row coordinates of every pixel: [2, H, W], first x, then y.

    Args:
        height: rows H.
        width: columns W.
        step: distance between neighbouring pixels; None for the authors' grid, which runs from -1 to 1 on each axis
            whatever the size (an axis of one pixel lies at -1), so that its steps shrink as maps grow.
        like: gives device and dtype.
    """
    # Elsewhere than on a CPU a tensor belongs to a stream, or to a graph that is being captured.
    if not like.is_cpu or is_watched(like):
        return _grid(height, width, step, like)
    return _kept_grid(int(height), int(width), step, like.device, like.dtype)


@lru_cache(maxsize=64)
def _kept_grid(height: int, width: int, step: float | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The grid of a size that was met before: its dozen small steps take longer than a small map's attention."""
    # A grid made for inference alone could not be used in training later.
    with torch.inference_mode(False), torch.no_grad():
        return _grid(height, width, step, torch.empty(0, device=device, dtype=dtype))


def _grid(height: int, width: int, step: float | None, like: Tensor) -> Tensor:
    x = _coordinates(width, step, like).to(like.dtype).expand(height, width)
    y = _coordinates(height, step, like).to(like.dtype).unsqueeze(1).expand(height, width)
    return torch.stack([x, y])
