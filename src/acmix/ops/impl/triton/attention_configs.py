"""How the kernels of window attention are cut into programs, for every head width.

The table is made from arithmetic and from what the compiler says of registers (`tests/ops/test_triton_compiled.py`
holds both), not from measurements: no card has run it yet. A thread holds a place's R pixels with all their channels
where these lie in planes, so that sums over channels stay within it; wide heads go to more threads of one warp, wider
ones to more warps, and what a program of a single pixel cannot hold is cut into parts of equal width.
"""

from typing import NamedTuple

from acmix.ops.impl.triton.launching import next_power

__all__ = ["WIDEST_PART", "Call", "Cut", "plan_cut"]

WIDEST_PART = 2048
"""Channels of one pixel that a program of four warps holds; a wider head's products are computed for each part."""

_LANES = 32

# Numbers of one tensor that a thread holds. The forward pass has four of that size at once, the backward pass six: with
# 32 of each its registers would spill, where pixels below each other do not share some of them.
_HELD, _HELD_BACKWARD = 32, 16


class Cut(NamedTuple):
    """A program's share.

    Attributes:
        width: channels, padded to a power of two.
        parts: programs that share a head.
        places: places side by side, a power of two.
        rows: pixels below each other at each place, which share the rows of keys that they load.
        axis: axis of the channels in a tile, 1 where pixels lie closer together in memory, else 2.
        warps: warps of 32 threads.
    """

    width: int
    parts: int
    places: int
    rows: int
    axis: int
    warps: int


class Call(NamedTuple):
    """What a cut depends on beside the head's width.

    Attributes:
        channels_last: whether the channels of a pixel lie closer together than its neighbours.
        spread: whether stride or dilation is more than 1: pixels below each other then share no rows.
        backward: whether it is the backward pass.
        interpreted: whether the interpreter runs it, whose time goes by programs: fewer and larger ones.
    """

    channels_last: bool
    spread: bool
    backward: bool
    interpreted: bool = False


def plan_cut(head_width: int, call: Call) -> Cut:
    """The share of a program.

    Args:
        head_width: channels D of a head.
        call: the rest.
    """
    parts = -(-head_width // WIDEST_PART)
    width = next_power(-(-head_width // parts))
    held = _HELD_BACKWARD if call.backward and width >= _HELD else _HELD
    if parts > 1:
        held //= 2  # beside a program's own part there is the one that is multiplied
    rows = 1 if call.spread else max(1, min(4, held // width))
    if call.channels_last:
        warps = 4
        places = max(1, _LANES * warps * held // (width * rows))
    else:
        # Where a thread cannot hold a place, lanes of one warp share it, by shuffles; more warps, with barriers between
        # them, only where one cannot hold it.
        warps = 4 if width <= held else max(1, width // (_LANES * held))
        places = max(1, min(_LANES * warps, _LANES * warps * held // width))
    return Cut(width, parts, 64 if call.interpreted else places, rows, 2 if call.channels_last else 1, warps)
