"""The output of window attention and the gradient of its queries: every program owns queries and walks over their keys.

A key's row is loaded once for the R queries below each other that see it. Softmax is computed online in base 2, in
float32. Nothing is masked but what is stored: places past the end repeat the last one.
"""

import triton
import triton.language as tl

from acmix.ops.impl.triton.window_kernels import along_places, channels_of, load, reflect

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
_LOWEST = tl.constexpr(-1e38)


@triton.jit
def places_of(tile, rows, columns, PLACES: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """First row [P] and column [P] of a tile's places, and whether they are there."""
    index = tile * PLACES + tl.arange(0, PLACES)
    count = tl.cdiv(rows, ROWS) * columns
    there = index < count
    # Where there is none at all (a stride beyond the map), what comes out is not stored either.
    index = tl.maximum(tl.minimum(index, count - 1), 0)
    length = tl.maximum(columns, 1)
    row, column = index // length * ROWS, index % length
    if WIDE:
        row, column = row.to(tl.int64), column.to(tl.int64)
    return row, column, there


@triton.jit
def rows_below(row, ROWS: tl.constexpr):
    """[P] -> [R, P]: the rows of the pixels at each place."""
    return tl.expand_dims(row, 0) + tl.expand_dims(tl.arange(0, ROWS), 1)


@triton.jit
def seen_by(step, RADIUS: tl.constexpr, ROWS: tl.constexpr):
    """[R, 1]: which of the queries below each other have the key row `step` of the first one's window in theirs."""
    below = tl.arange(0, ROWS)
    return tl.expand_dims((step >= below) & (step <= below + 2 * RADIUS), 1)


@triton.jit
def attention_forward(
    q, k, v, position, out, lse,
    q_strides, k_strides, v_strides, position_strides, out_strides,
    heads, height, width, rows, columns, scale,
    HEAD: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, REPEATED: tl.constexpr,
    WIDE: tl.constexpr, HAS_POSITION: tl.constexpr,
    D: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, D_AXIS: tl.constexpr,
):  # fmt: skip
    """out [B, N, D, H', W'] and lse [B, N, H', W'] of q (at the stride), k, v [B, N, D, H, W]."""
    tiles = tl.cdiv(tl.cdiv(rows, ROWS) * columns, PLACES)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    row, column, there = places_of(tl.program_id(0) % tiles, rows, columns, PLACES, ROWS, WIDE)
    channels = channels_of(D, D_AXIS, WIDE)
    inside = channels < HEAD

    own_rows = rows_below(row, ROWS)
    readable = tl.expand_dims(tl.minimum(own_rows, rows - 1), D_AXIS)
    own_columns = along_places(column, D_AXIS)
    q += batch * q_strides[0] + head * q_strides[1]
    k += batch * k_strides[0] + head * k_strides[1]
    v += batch * v_strides[0] + head * v_strides[1]
    queries = load(
        q + channels * q_strides[2] + readable * q_strides[3] + own_columns * q_strides[4], inside, HEAD != D
    )
    queries *= scale * LOG2_E

    highest = tl.full([ROWS, PLACES], _LOWEST, tl.float32)
    total = tl.zeros([ROWS, PLACES], tl.float32)
    mixed = tl.zeros_like(queries)
    for step in range(2 * RADIUS + ROWS):
        y = along_places(reflect(row * STRIDE + (step - RADIUS) * DILATION, height, REPEATED), D_AXIS)
        seen = seen_by(step, RADIUS, ROWS)
        for side in range(2 * RADIUS + 1):
            x = along_places(reflect(column * STRIDE + (side - RADIUS) * DILATION, width, REPEATED), D_AXIS)
            key = load(k + channels * k_strides[2] + y * k_strides[3] + x * k_strides[4], inside, HEAD != D)
            if HAS_POSITION:
                at = channels * position_strides[0] + y * position_strides[1] + x * position_strides[2]
                key -= load(position + at, inside, HEAD != D)
            value = load(v + channels * v_strides[2] + y * v_strides[3] + x * v_strides[4], inside, HEAD != D)
            logits = tl.sum(queries * key, D_AXIS)
            if ROWS > 1:
                logits = tl.where(seen, logits, float("-inf"))
            higher = tl.maximum(highest, logits)
            shrink, weight = tl.exp2(highest - higher), tl.exp2(logits - higher)
            total = total * shrink + weight
            mixed = mixed * tl.expand_dims(shrink, D_AXIS) + tl.expand_dims(weight, D_AXIS) * value
            highest = higher

    stored = (own_rows < rows) & tl.expand_dims(there, 0)
    mixed = mixed / tl.expand_dims(total, D_AXIS)
    out += batch * out_strides[0] + head * out_strides[1]
    where = channels * out_strides[2] + tl.expand_dims(own_rows, D_AXIS) * out_strides[3] + own_columns * out_strides[4]
    tl.store(out + where, mixed.to(out.dtype.element_ty), mask=tl.expand_dims(stored, D_AXIS) & inside)
    lse += image * rows * columns
    tl.store(lse + own_rows * columns + tl.expand_dims(column, 0), highest * LN_2 + tl.log(total), mask=stored)


@triton.jit
def attention_backward_queries(
    grad, q, k, v, position, out, lse, grad_q, delta,
    grad_strides, q_strides, k_strides, v_strides, position_strides, out_strides, grad_q_strides,
    heads, height, width, rows, columns, scale,
    HEAD: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, REPEATED: tl.constexpr,
    WIDE: tl.constexpr, HAS_POSITION: tl.constexpr,
    D: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, D_AXIS: tl.constexpr,
):  # fmt: skip
    """grad_q, laid out as q (at the stride), and delta [B, N, H', W'], each query's product of output and gradient."""
    tiles = tl.cdiv(tl.cdiv(rows, ROWS) * columns, PLACES)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    row, column, there = places_of(tl.program_id(0) % tiles, rows, columns, PLACES, ROWS, WIDE)
    channels = channels_of(D, D_AXIS, WIDE)
    inside = channels < HEAD

    own_rows = rows_below(row, ROWS)
    lower = tl.minimum(own_rows, rows - 1)
    readable = tl.expand_dims(lower, D_AXIS)
    own_columns = along_places(column, D_AXIS)
    q += batch * q_strides[0] + head * q_strides[1]
    k += batch * k_strides[0] + head * k_strides[1]
    v += batch * v_strides[0] + head * v_strides[1]
    out += batch * out_strides[0] + head * out_strides[1]
    grad += batch * grad_strides[0] + head * grad_strides[1]
    queries = load(
        q + channels * q_strides[2] + readable * q_strides[3] + own_columns * q_strides[4], inside, HEAD != D
    )
    queries *= scale * LOG2_E
    where = channels * out_strides[2] + readable * out_strides[3] + own_columns * out_strides[4]
    attended = load(out + where, inside, HEAD != D)
    where = channels * grad_strides[2] + readable * grad_strides[3] + own_columns * grad_strides[4]
    grads = load(grad + where, inside, HEAD != D)
    offset = tl.sum(grads * attended, D_AXIS)
    stored = (own_rows < rows) & tl.expand_dims(there, 0)
    sums = image * rows * columns + lower * columns + tl.expand_dims(column, 0)
    tl.store(delta + sums, offset, mask=stored)
    logs = tl.load(lse + sums) * LOG2_E

    result = tl.zeros_like(queries)
    for step in range(2 * RADIUS + ROWS):
        y = along_places(reflect(row * STRIDE + (step - RADIUS) * DILATION, height, REPEATED), D_AXIS)
        seen = seen_by(step, RADIUS, ROWS)
        for side in range(2 * RADIUS + 1):
            x = along_places(reflect(column * STRIDE + (side - RADIUS) * DILATION, width, REPEATED), D_AXIS)
            key = load(k + channels * k_strides[2] + y * k_strides[3] + x * k_strides[4], inside, HEAD != D)
            if HAS_POSITION:
                at = channels * position_strides[0] + y * position_strides[1] + x * position_strides[2]
                key -= load(position + at, inside, HEAD != D)
            value = load(v + channels * v_strides[2] + y * v_strides[3] + x * v_strides[4], inside, HEAD != D)
            logits = tl.sum(queries * key, D_AXIS) - logs
            if ROWS > 1:
                logits = tl.where(seen, logits, float("-inf"))
            grad_logits = tl.exp2(logits) * (tl.sum(grads * value, D_AXIS) - offset)
            result += tl.expand_dims(grad_logits, D_AXIS) * key

    grad_q += batch * grad_q_strides[0] + head * grad_q_strides[1]
    where = channels * grad_q_strides[2] + readable * grad_q_strides[3] + own_columns * grad_q_strides[4]
    tl.store(grad_q + where, (result * scale).to(grad_q.dtype.element_ty), mask=tl.expand_dims(stored, D_AXIS) & inside)
