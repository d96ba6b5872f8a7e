"""What the kernels of window attention on matrix units share: blocks of pixels, and counts of keys in windows.

A block is 8 x 8 pixels that a program owns, or BAND x 16 that it walks over. Stride and dilation are 1.
"""

import triton
import triton.language as tl

from acmix.ops.impl.triton.kernels.window import multiplicity

OWN_SIDE = tl.constexpr(8)
OTHER_COLUMNS = tl.constexpr(16)
_FAR = tl.constexpr(1 << 29)


@triton.jit
def own_pixels(tile, tiles_across):
    """First row and column of a program's block, and rows and columns [64] of its pixels."""
    top, left = tile // tiles_across * OWN_SIDE, tile % tiles_across * OWN_SIDE
    pixel = tl.arange(0, OWN_SIDE * OWN_SIDE)
    return top, left, top + pixel // OWN_SIDE, left + pixel % OWN_SIDE


@triton.jit
def other_pixels(top, left, BAND: tl.constexpr):
    """Rows and columns [BAND * 16] of a block that starts there."""
    pixel = tl.arange(0, BAND * OTHER_COLUMNS)
    return top + pixel // OTHER_COLUMNS, left + pixel % OTHER_COLUMNS


@triton.jit
def numbers_of(image, y, x, height, width, WIDE: tl.constexpr):
    """Where pixels lie in [B, N, H, W]; those beyond the map as those at its end."""
    y, x = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
    if WIDE:
        y = y.to(tl.int64)
    return image * height * width + (y * width + x)


@triton.jit
def load_block(
    pointer, strides, y, x, height, width,
    HEAD: tl.constexpr, D: tl.constexpr, D_AXIS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Channels of pixels as [D, P], as they lie in memory on the way; pixels beyond the map repeat those at its end."""
    y, x = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
    channels = tl.arange(0, D)
    if WIDE:
        y, x, channels = y.to(tl.int64), x.to(tl.int64), channels.to(tl.int64)
    place = y * strides[3] + x * strides[4]
    other: tl.constexpr = 1 - D_AXIS
    target = pointer + tl.expand_dims(place, D_AXIS) + tl.expand_dims(channels * strides[2], other)
    if HEAD != D:
        block = tl.load(target, mask=tl.expand_dims(channels < HEAD, other), other=0.0)
    else:
        block = tl.load(target)
    if D_AXIS == 1:
        block = tl.trans(block)
    return block


@triton.jit
def store_block(
    pointer, strides, y, x, height, width, block,
    HEAD: tl.constexpr, D: tl.constexpr, D_AXIS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Write [P, D], in the pointer's dtype, to the pixels that are on the map."""
    there = (y < height) & (x < width)
    channels = tl.arange(0, D)
    if WIDE:
        y, x, channels = y.to(tl.int64), x.to(tl.int64), channels.to(tl.int64)
    place = y * strides[3] + x * strides[4]
    other: tl.constexpr = 1 - D_AXIS
    target = pointer + tl.expand_dims(place, D_AXIS) + tl.expand_dims(channels * strides[2], other)
    mask = tl.expand_dims(there, D_AXIS) & tl.expand_dims(channels < HEAD, other)
    block = block.to(pointer.dtype.element_ty)
    if D_AXIS == 0:
        block = tl.trans(block)
    tl.store(target, block, mask=mask)


@triton.jit
def product(a, b, WIDEN: tl.constexpr):
    """Of two matrices in half precision, in float32; `WIDEN` for the interpreter, which knows no bfloat16 here."""
    if WIDEN:
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        return tl.dot(a, b)


@triton.jit
def counts(query, key, there, size, radius, REPEATED: tl.constexpr):
    """`multiplicity` of keys for queries, one of which is [P, 1] and one [1, P], along an axis; 0 where not `there`."""
    if REPEATED:
        count = multiplicity(query, key, size, radius, 1, True)
    else:
        # The key itself, its image above the first row, its image below the last one; as thresholds, for there is one
        # of these for every pair.
        last = size - 1
        count = (tl.abs(query - key) <= radius).to(tl.int32)
        count += (tl.where(key > 0, key, _FAR) <= radius - query).to(tl.int32)
        count += (tl.where(key < last, key, -_FAR) >= 2 * last - radius - query).to(tl.int32)
    return tl.where(there, count, 0)


@triton.jit
def reach_of(first, size, radius):
    """From which row on, and up to which, pixels see a block's or are seen by them, along one axis."""
    return tl.maximum(first - radius, 0), tl.minimum(first + OWN_SIDE + radius, size)
