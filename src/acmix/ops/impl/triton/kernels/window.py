"""What the kernels of window attention share: where pixels lie, which key an offset meets, how often a key counts.

Tiles are [R, D, P] (`D_AXIS` 1) or [R, P, D] (`D_AXIS` 2): P places of the map side by side, R pixels below each other
at every place, D channels, padded to a power of two. The last axis is the one that lies close together in memory.
"""

import triton
import triton.language as tl


@triton.jit
def channels_of(part, D: tl.constexpr, D_AXIS: tl.constexpr, WIDE: tl.constexpr):
    """Numbers of a part's channels, [1, D, 1] or [1, 1, D]."""
    channels = part * D + tl.arange(0, D)
    if WIDE:
        channels = channels.to(tl.int64)
    return tl.expand_dims(tl.expand_dims(channels, 0), 3 - D_AXIS)


@triton.jit
def along_places(x, D_AXIS: tl.constexpr):
    """[P] -> [1, 1, P] or [1, P, 1]."""
    return tl.expand_dims(tl.expand_dims(x, 0), D_AXIS)


@triton.jit
def image_of(pointer, strides, batch, head):
    """Where one head of one image begins."""
    return pointer + (batch * strides[0] + head * strides[1])


@triton.jit
def pixels(pointer, strides, channels, y, x):
    """Where channels of pixels lie; the place first: it is one address a thread, which its channels share."""
    return pointer + (y * strides[3] + x * strides[4]) + channels * strides[2]


@triton.jit
def load(pointer, inside, MASKED: tl.constexpr):
    """In float32; zeros in channels that are there to fill up a power of two alone."""
    if MASKED:
        return tl.load(pointer, mask=inside, other=0.0).to(tl.float32)
    else:
        return tl.load(pointer).to(tl.float32)


@triton.jit
def part_product(
    part, a, a_strides, a_y, a_x, b, b_strides, b_y, b_x, code, code_strides,
    HEAD: tl.constexpr, D: tl.constexpr, D_AXIS: tl.constexpr, WIDE: tl.constexpr, HAS_CODE: tl.constexpr,
):  # fmt: skip
    """[R, P]: products, over a part's channels, of pixels of a and of b less their code, if there is one."""
    channels = channels_of(part, D, D_AXIS, WIDE)
    inside = channels < HEAD
    MASKED: tl.constexpr = HEAD % D != 0
    other = load(pixels(b, b_strides, channels, b_y, b_x), inside, MASKED)
    if HAS_CODE:
        other -= load(pixels(code, code_strides, channels, b_y, b_x), inside, MASKED)
    return tl.sum(load(pixels(a, a_strides, channels, a_y, a_x), inside, MASKED) * other, D_AXIS)


@triton.jit
def whole_product(
    a, a_strides, a_y, a_x, b, b_strides, b_y, b_x, code, code_strides,
    HEAD: tl.constexpr, PARTS: tl.constexpr, D: tl.constexpr, D_AXIS: tl.constexpr,
    WIDE: tl.constexpr, HAS_CODE: tl.constexpr,
):  # fmt: skip
    """`part_product` over all parts of a head that is wider than a tile."""
    total = part_product(
        0, a, a_strides, a_y, a_x, b, b_strides, b_y, b_x, code, code_strides, HEAD, D, D_AXIS, WIDE, HAS_CODE
    )
    for part in range(1, PARTS):
        total += part_product(
            part, a, a_strides, a_y, a_x, b, b_strides, b_y, b_x, code, code_strides, HEAD, D, D_AXIS, WIDE, HAS_CODE
        )
    return total


@triton.jit
def positive_remainder(index, period):
    """`index mod period` in [0, period), under Python's rules and under C's."""
    remainder = index % period
    return tl.where(remainder < 0, remainder + period, remainder)


@triton.jit
def reflect(index, size, REPEATED: tl.constexpr):
    """Mirror positions into [0, size); without `REPEATED` they reach less than a map beyond the border.

    What reaches further comes out somewhere inside, so that it can be loaded.
    """
    if REPEATED:
        period = tl.maximum(2 * (size - 1), 1)
        folded = positive_remainder(index, period)
        return tl.minimum(folded, period - folded)
    else:
        last = size - 1
        return tl.maximum(last - tl.abs(last - tl.abs(index)), 0)


@triton.jit
def in_window(distance, reach, DILATION: tl.constexpr):
    """1 where a window's key lies at this distance from its centre, else 0."""
    near = tl.abs(distance) <= reach
    if DILATION > 1:
        near = near & (distance % DILATION == 0)
    return near.to(tl.int32)


@triton.jit
def multiplicity(query, key, size, radius, DILATION: tl.constexpr, REPEATED: tl.constexpr):
    """How often a key stands in a query's reflected window, along one axis; 0 for a query outside of the map."""
    if REPEATED:
        count = (query + key) * 0
        for step in range(2 * radius + 1):
            count += (reflect(query + (step - radius) * DILATION, size, REPEATED) == key).to(tl.int32)
    else:
        # The key itself, its image above the first row, its image below the last one; both borders have no image.
        last = size - 1
        count = in_window(query - key, radius * DILATION, DILATION)
        above = in_window(query + key, radius * DILATION, DILATION)
        below = in_window(2 * last - query - key, radius * DILATION, DILATION)
        count += tl.where(key > 0, above, 0) + tl.where(key < last, below, 0)
    return tl.where((query >= 0) & (query < size), count, 0)
