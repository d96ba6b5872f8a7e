"""When window attention runs on matrix units, and how its kernels there are launched."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from acmix.ops.impl.torch.tiles import Window
from acmix.ops.impl.triton.availability import INTERPRETED
from acmix.ops.impl.triton.launching import extent_is_wide, next_power
from acmix.ops.layout import is_channels_last

__all__ = ["MatrixLaunch", "plan_matrix_launch", "wants_matrices"]

# A block of 8 x 8 pixels reaches 14 x 14 of a 7 x 7 window, four times what each of them sees. By arithmetic that pays
# where heads are wide enough to hide logits and softmax of the rest, and windows large enough to fill a good part.
_WIDTHS, _LEAST_WINDOW = (32, 128), 5

# For a padded width: rows of 16 pixels that a program takes at a time, and its warps. By what the compiler says of
# registers, not measured: no card has run it yet.
_CUTS = {32: (2, 4), 64: (2, 8), 128: (1, 8)}

# The kernels' blocks: pixels on a side of what a program owns.
_SIDE = 8


class MatrixLaunch(NamedTuple):
    """What all launches of one call have in common.

    Attributes:
        window: its options.
        sizes: heads, height and width.
        head_width: channels of a head.
        channels_last: whether the channels of a pixel lie closer together than its neighbours.
        wide: whether offsets take 64 bits.
    """

    window: Window
    sizes: tuple[int, int, int]
    head_width: int
    channels_last: bool
    wide: bool

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """The kernels' numbers: sizes, radius of the window, scale."""
        return *self.sizes, (self.window.kernel_size - 1) // 2, self.window.scale

    def constants(self, *, has_position: bool) -> dict[str, Any]:
        """The kernels' compile-time arguments."""
        width = next_power(self.head_width)
        band, warps = _CUTS[width]
        return {
            "HEAD": self.head_width,
            "REPEATED": self.window.reach >= min(self.sizes[1:]),
            "WIDE": self.wide,
            "HAS_POSITION": has_position,
            "D": width,
            "D_AXIS": 1 if self.channels_last else 0,
            "WIDEN": INTERPRETED,
            "BAND": band,
            "num_warps": warps,
            "num_stages": 1,
            "enable_fp_fusion": True,
        }

    def programs(self, images: int) -> int:
        """For so many images times heads."""
        _, height, width = self.sizes
        return images * -(-height // _SIDE) * -(-width // _SIDE)


def wants_matrices(q: Tensor, window: Window) -> bool:
    """Whether attention of queries [B, N, D, H, W] runs on matrix units."""
    if q.dtype == torch.float32:
        return False  # what these units make of it is no float32
    if window.stride > 1 or window.dilation > 1 or window.kernel_size < _LEAST_WINDOW:
        return False
    return _WIDTHS[0] <= q.shape[2] <= _WIDTHS[1]


def plan_matrix_launch(q: Tensor, window: Window, *others: Tensor) -> MatrixLaunch:
    """For queries [B, N, D, H, W]; the others are read or written with offsets of the same size."""
    _, heads, head_width, height, width = q.shape
    sizes = heads, height, width
    return MatrixLaunch(window, sizes, head_width, is_channels_last(q), extent_is_wide(q, *others))
