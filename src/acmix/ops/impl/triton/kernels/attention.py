"""The output of window attention and the gradient of its queries: every program owns queries and walks over their keys.

Of a head that is wider than a tile, a program owns one of PARTS parts of D channels: it makes these of the results, and
takes products over all of the head, part by part, again.

A key's row is loaded once for the R queries below each other that see it. Softmax is computed online in base 2, in
float32. Nothing is masked but what is stored: places past the end repeat the last one.
"""

import triton
import triton.language as tl

from acmix.ops.impl.triton.kernels.window import (
    along_places,
    channels_of,
    image_of,
    load,
    pixels,
    reflect,
    whole_product,
)

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
_LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32: no finite logit is lower


@triton.jit
def tiles_of(rows, columns, PLACES: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """How many tiles a map of so many pixels has."""
    places = tl.cdiv(rows, ROWS)
    if WIDE:
        places = tl.cast(places, tl.int64)
    return tl.cdiv(places * columns, PLACES)


@triton.jit
def places_of(tile, rows, columns, PLACES: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """First row [P] and column [P] of a tile's places, and whether they are there."""
    places = tl.cdiv(rows, ROWS)
    if WIDE:
        tile, places = tl.cast(tile, tl.int64), tl.cast(places, tl.int64)
    index = tile * PLACES + tl.arange(0, PLACES)
    count = places * columns
    there = index < count
    # Where there is none at all (a stride beyond the map), what comes out is not stored either.
    index = tl.maximum(tl.minimum(index, count - 1), 0)
    length = tl.maximum(columns, 1)
    return index // length * ROWS, index % length, there


@triton.jit
def rows_below(row, ROWS: tl.constexpr):
    """[P] -> [R, P]: the rows of the pixels at each place."""
    return tl.expand_dims(row, 0) + tl.expand_dims(tl.arange(0, ROWS), 1)


@triton.jit
def seen_by(step, radius, ROWS: tl.constexpr):
    """[R, 1]: which of the queries below each other have the key row `step` of the first one's window in theirs."""
    below = tl.arange(0, ROWS)
    return tl.expand_dims((step >= below) & (step <= below + 2 * radius), 1)


@triton.jit
def is_first(part):
    """[1, 1]: whether this program writes what the parts of a head have in common."""
    return (tl.zeros([1, 1], tl.int32) + part) == 0


@triton.jit
def key_and_value(
    k, v, position, k_strides, v_strides, position_strides, channels, inside, y, x,
    MASKED: tl.constexpr, HAS_POSITION: tl.constexpr,
):  # fmt: skip
    """Keys less their position, and values, at pixels (y, x)."""
    key = load(pixels(k, k_strides, channels, y, x), inside, MASKED)
    if HAS_POSITION:
        key -= load(pixels(position, position_strides, channels, y, x), inside, MASKED)
    return key, load(pixels(v, v_strides, channels, y, x), inside, MASKED)


@triton.jit
def attention_forward(
    q, k, v, position, out, lse,
    q_strides, k_strides, v_strides, position_strides, out_strides,
    heads, height, width, rows, columns, radius, scale,
    HEAD: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, REPEATED: tl.constexpr,
    WIDE: tl.constexpr, HAS_POSITION: tl.constexpr, ALIKE: tl.constexpr,
    D: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, D_AXIS: tl.constexpr,
):  # fmt: skip
    """out [B, N, D, H', W'] and lse [B, N, H', W'] of q (at the stride), k, v [B, N, D, H, W]."""
    if ALIKE:
        v_strides = k_strides  # so that the compiler knows it, and computes an address once
    tiles = tiles_of(rows, columns, PLACES, ROWS, WIDE)
    part, program = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
    image = (program // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    row, column, there = places_of(program % tiles, rows, columns, PLACES, ROWS, WIDE)
    channels = channels_of(part, D, D_AXIS, WIDE)
    inside = channels < HEAD
    MASKED: tl.constexpr = HEAD % D != 0

    own_rows = rows_below(row, ROWS)
    readable = tl.expand_dims(tl.minimum(own_rows, rows - 1), D_AXIS)
    own_columns = along_places(column, D_AXIS)
    q = image_of(q, q_strides, batch, head)
    k = image_of(k, k_strides, batch, head)
    v = image_of(v, v_strides, batch, head)
    queries = load(pixels(q, q_strides, channels, readable, own_columns), inside, MASKED) * (scale * LOG2_E)

    highest = tl.full([ROWS, PLACES], _LOWEST, tl.float32)
    total = tl.zeros([ROWS, PLACES], tl.float32)
    mixed = tl.zeros_like(queries)
    for step in range(2 * radius + ROWS):
        y = along_places(reflect(row * STRIDE + (step - radius) * DILATION, height, REPEATED), D_AXIS)
        seen = seen_by(step, radius, ROWS)
        for side in range(2 * radius + 1):
            x = along_places(reflect(column * STRIDE + (side - radius) * DILATION, width, REPEATED), D_AXIS)
            key, value = key_and_value(
                k, v, position, k_strides, v_strides, position_strides, channels, inside, y, x, MASKED, HAS_POSITION
            )
            if PARTS == 1:
                logits = tl.sum(queries * key, D_AXIS)
            else:
                logits = whole_product(
                    q, q_strides, readable, own_columns, k, k_strides, y, x, position, position_strides,
                    HEAD, PARTS, D, D_AXIS, WIDE, HAS_POSITION,
                ) * (scale * LOG2_E)  # fmt: skip
            if ROWS > 1:
                logits = tl.where(seen, logits, float("-inf"))
            higher = tl.maximum(highest, logits)
            shrink, weight = tl.exp2(highest - higher), tl.exp2(logits - higher)
            total = total * shrink + weight
            mixed = mixed * tl.expand_dims(shrink, D_AXIS) + tl.expand_dims(weight, D_AXIS) * value
            highest = higher

    stored = (own_rows < rows) & tl.expand_dims(there, 0)
    mixed = mixed / tl.expand_dims(total, D_AXIS)
    out = image_of(out, out_strides, batch, head)
    target = pixels(out, out_strides, channels, readable, own_columns)
    tl.store(target, mixed.to(out.dtype.element_ty), mask=tl.expand_dims(stored, D_AXIS) & inside)
    lse += image * rows * columns
    sums = lse + own_rows * columns + tl.expand_dims(column, 0)
    tl.store(sums, highest * LN_2 + tl.log(total), mask=stored & is_first(part))


@triton.jit
def attention_backward_queries(
    grad, q, k, v, position, out, lse, grad_q, delta,
    grad_strides, q_strides, k_strides, v_strides, position_strides, out_strides, grad_q_strides,
    heads, height, width, rows, columns, radius, scale,
    HEAD: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, REPEATED: tl.constexpr,
    WIDE: tl.constexpr, HAS_POSITION: tl.constexpr, ALIKE: tl.constexpr,
    D: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, D_AXIS: tl.constexpr,
):  # fmt: skip
    """grad_q, laid out as q (at the stride), and delta [B, N, H', W'], each query's product of output and gradient."""
    if ALIKE:
        v_strides = k_strides
    tiles = tiles_of(rows, columns, PLACES, ROWS, WIDE)
    part, program = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
    image = (program // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    row, column, there = places_of(program % tiles, rows, columns, PLACES, ROWS, WIDE)
    channels = channels_of(part, D, D_AXIS, WIDE)
    inside = channels < HEAD
    MASKED: tl.constexpr = HEAD % D != 0

    own_rows = rows_below(row, ROWS)
    lower = tl.minimum(own_rows, rows - 1)
    readable = tl.expand_dims(lower, D_AXIS)
    own_columns = along_places(column, D_AXIS)
    q = image_of(q, q_strides, batch, head)
    k = image_of(k, k_strides, batch, head)
    v = image_of(v, v_strides, batch, head)
    out = image_of(out, out_strides, batch, head)
    grad = image_of(grad, grad_strides, batch, head)
    queries = load(pixels(q, q_strides, channels, readable, own_columns), inside, MASKED) * (scale * LOG2_E)
    grads = load(pixels(grad, grad_strides, channels, readable, own_columns), inside, MASKED)
    if PARTS == 1:
        attended = load(pixels(out, out_strides, channels, readable, own_columns), inside, MASKED)
        offset = tl.sum(grads * attended, D_AXIS)
    else:
        offset = whole_product(
            grad, grad_strides, readable, own_columns, out, out_strides, readable, own_columns, out, out_strides,
            HEAD, PARTS, D, D_AXIS, WIDE, False,
        )  # fmt: skip
    stored = (own_rows < rows) & tl.expand_dims(there, 0)
    sums = image * rows * columns + lower * columns + tl.expand_dims(column, 0)
    tl.store(delta + sums, offset, mask=stored & is_first(part))
    logs = tl.load(lse + sums) * LOG2_E

    result = tl.zeros_like(queries)
    for step in range(2 * radius + ROWS):
        y = along_places(reflect(row * STRIDE + (step - radius) * DILATION, height, REPEATED), D_AXIS)
        seen = seen_by(step, radius, ROWS)
        for side in range(2 * radius + 1):
            x = along_places(reflect(column * STRIDE + (side - radius) * DILATION, width, REPEATED), D_AXIS)
            key, value = key_and_value(
                k, v, position, k_strides, v_strides, position_strides, channels, inside, y, x, MASKED, HAS_POSITION
            )
            if PARTS == 1:
                logits, gain = tl.sum(queries * key, D_AXIS), tl.sum(grads * value, D_AXIS)
            else:
                logits = whole_product(
                    q, q_strides, readable, own_columns, k, k_strides, y, x, position, position_strides,
                    HEAD, PARTS, D, D_AXIS, WIDE, HAS_POSITION,
                ) * (scale * LOG2_E)  # fmt: skip
                gain = whole_product(
                    grad, grad_strides, readable, own_columns, v, v_strides, y, x, v, v_strides,
                    HEAD, PARTS, D, D_AXIS, WIDE, False,
                )  # fmt: skip
            logits -= logs
            if ROWS > 1:
                logits = tl.where(seen, logits, float("-inf"))
            grad_logits = tl.exp2(logits) * (gain - offset)
            result += tl.expand_dims(grad_logits, D_AXIS) * key

    grad_q = image_of(grad_q, grad_q_strides, batch, head)
    target = pixels(grad_q, grad_q_strides, channels, readable, own_columns)
    tl.store(target, (result * scale).to(grad_q.dtype.element_ty), mask=tl.expand_dims(stored, D_AXIS) & inside)
