"""The coordinate grid behind the position code."""

from typing import cast

import torch
from torch import Tensor

__all__ = ["coordinate_grid"]


def _authors_axis(size: int, device: torch.device) -> Tensor:
    """The values of float32 `torch.linspace(-1, 1, size)`, which the authors' outputs were made with, to the last bit.

    Not linspace itself: its number of steps becomes a constant when a model is exported with dynamic sizes. It runs
    from both ends to the middle and rounds once, hence the halves and the float64 (MPS has none, and rounds twice).
    """
    wide = torch.float32 if device.type == "mps" else torch.float64
    last = cast("int", torch.sym_max(size - 1, 1))
    step = torch.full((), 2.0, dtype=torch.float32, device=device).div(last).to(wide)
    index = torch.arange(size, device=device)
    return torch.where(index < size // 2, step * index - 1.0, 1.0 - step * (last - index)).float()


def _coordinates(size: int, step: float | None, device: torch.device) -> Tensor:
    if step is None:
        return _authors_axis(size, device)
    return torch.arange(size, device=device) * step


def coordinate_grid(height: int, width: int, step: float | None, like: Tensor) -> Tensor:
    """Column and row coordinates of every pixel: [2, H, W], first x, then y.

    Args:
        height: rows H.
        width: columns W.
        step: distance between neighbouring pixels; None for the authors' grid, which runs from -1 to 1 on each axis
            whatever the size (an axis of one pixel lies at -1), so that its steps shrink as maps grow.
        like: gives device and dtype.
    """
    x = _coordinates(width, step, like.device).to(like.dtype).expand(height, width)
    y = _coordinates(height, step, like.device).to(like.dtype).unsqueeze(1).expand(height, width)
    return torch.stack([x, y])
