"""The gradients of window attention's keys and values: every program owns keys and walks over the queries that see them.

So nothing is scattered, no two programs write to one place, and two runs agree to the bit. With reflected borders a
query sees a key up to several times; all that do lie within the window's reach of it, and `multiplicity` counts.
"""

import triton
import triton.language as tl

from acmix.ops.impl.triton.attention_kernels import LOG2_E, places_of, rows_below
from acmix.ops.impl.triton.window_kernels import along_places, channels_of, load, multiplicity, positive_remainder


@triton.jit
def meets(step, phase, border, REACH: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr):
    """Whether at this step some of the tile's keys may be seen by a query: it lies at the stride, and in a window.

    Off the window's spacing only where reflection changes distances, at the borders.
    """
    at_stride = positive_remainder(phase + step - REACH, STRIDE) == 0
    if DILATION > 1:
        at_stride = at_stride & (border | (positive_remainder(step - REACH, DILATION) == 0))
    return at_stride


@triton.jit
def is_at_border(first, last, size, REACH: tl.constexpr):
    """Whether reflection reaches some of the keys from `first` to `last`, scalars."""
    return (first <= REACH) | (last >= size - 1 - REACH)


@triton.jit
def attention_backward_keys(
    grad, q, k, v, position, lse, delta, grad_k, grad_v,
    grad_strides, q_strides, k_strides, v_strides, position_strides, grad_k_strides, grad_v_strides,
    heads, height, width, rows, columns, scale,
    HEAD: tl.constexpr, RADIUS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, REPEATED: tl.constexpr,
    WIDE: tl.constexpr, HAS_POSITION: tl.constexpr,
    D: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, D_AXIS: tl.constexpr,
):  # fmt: skip
    """grad_k, grad_v [B, N, D, H, W]; a program owns keys that are a stride apart, which one step's queries all see."""
    REACH: tl.constexpr = RADIUS * DILATION
    tiles = tl.cdiv(tl.cdiv(tl.cdiv(height, STRIDE), ROWS) * tl.cdiv(width, STRIDE), PLACES)
    tile = tl.program_id(0) % tiles
    phase = tl.program_id(0) // tiles % (STRIDE * STRIDE)
    image = (tl.program_id(0) // tiles // (STRIDE * STRIDE)).to(tl.int64)
    batch, head = image // heads, image % heads
    top, left = phase // STRIDE, phase % STRIDE
    # Pixels of this phase, along both axes.
    tall, wide = tl.cdiv(height - top, STRIDE), tl.cdiv(width - left, STRIDE)
    row, column, there = places_of(tile, tall, wide, PLACES, ROWS, WIDE)
    channels = channels_of(D, D_AXIS, WIDE)
    inside = channels < HEAD

    first = tile * PLACES // tl.maximum(wide, 1) * STRIDE + top
    last = (tile * PLACES + PLACES - 1) // tl.maximum(wide, 1) * STRIDE + top
    border = is_at_border(first, last, height, REACH) | REPEATED
    own_rows = rows_below(row, ROWS) * STRIDE + top
    column = column * STRIDE + left
    readable = tl.expand_dims(tl.minimum(own_rows, height - 1), D_AXIS)
    own_columns = along_places(tl.minimum(column, width - 1), D_AXIS)
    k += batch * k_strides[0] + head * k_strides[1]
    v += batch * v_strides[0] + head * v_strides[1]
    q += batch * q_strides[0] + head * q_strides[1]
    grad += batch * grad_strides[0] + head * grad_strides[1]
    lse += image * rows * columns
    delta += image * rows * columns
    keys = load(k + channels * k_strides[2] + readable * k_strides[3] + own_columns * k_strides[4], inside, HEAD != D)
    if HAS_POSITION:
        at = channels * position_strides[0] + readable * position_strides[1] + own_columns * position_strides[2]
        keys -= load(position + at, inside, HEAD != D)
    keys *= scale * LOG2_E
    values = load(v + channels * v_strides[2] + readable * v_strides[3] + own_columns * v_strides[4], inside, HEAD != D)

    of_keys, of_values = tl.zeros_like(keys), tl.zeros_like(values)
    for step in range(2 * REACH + ROWS):
        if meets(step, top, border, REACH, STRIDE, DILATION):
            query_row = row * STRIDE + top + (step - REACH)
            times = multiplicity(tl.expand_dims(query_row, 0), own_rows, height, RADIUS, DILATION, REPEATED)
            y = tl.minimum(tl.maximum(query_row, 0), height - 1) // STRIDE
            for side in range(2 * REACH + 1):
                if meets(side, left, True, REACH, STRIDE, DILATION):
                    query_column = column + (side - REACH)
                    across = multiplicity(query_column, column, width, RADIUS, DILATION, REPEATED)
                    x = tl.minimum(tl.maximum(query_column, 0), width - 1) // STRIDE
                    at = y * columns + x
                    logs, offset = tl.load(lse + at) * LOG2_E, tl.load(delta + at)
                    wide_y, wide_x = along_places(y, D_AXIS), along_places(x, D_AXIS)
                    where = channels * q_strides[2] + wide_y * q_strides[3] + wide_x * q_strides[4]
                    query = load(q + where, inside, HEAD != D)
                    where = channels * grad_strides[2] + wide_y * grad_strides[3] + wide_x * grad_strides[4]
                    grads = load(grad + where, inside, HEAD != D)
                    count = times * tl.expand_dims(across, 0)
                    logits = tl.sum(query * keys, D_AXIS) - tl.expand_dims(logs, 0)
                    # A query that does not see the key may have any logit with it.
                    weight = tl.where(count > 0, tl.exp2(logits) * count, 0.0)
                    of_values += tl.expand_dims(weight, D_AXIS) * grads
                    grad_logits = weight * (tl.sum(grads * values, D_AXIS) - tl.expand_dims(offset, 0))
                    of_keys += tl.expand_dims(grad_logits, D_AXIS) * query

    stored = tl.expand_dims((own_rows < height) & tl.expand_dims(there, 0), D_AXIS) & inside
    grad_k += batch * grad_k_strides[0] + head * grad_k_strides[1]
    grad_v += batch * grad_v_strides[0] + head * grad_v_strides[1]
    where = channels * grad_k_strides[2] + readable * grad_k_strides[3] + own_columns * grad_k_strides[4]
    tl.store(grad_k + where, (of_keys * scale).to(grad_k.dtype.element_ty), mask=stored)
    where = channels * grad_v_strides[2] + readable * grad_v_strides[3] + own_columns * grad_v_strides[4]
    tl.store(grad_v + where, of_values.to(grad_v.dtype.element_ty), mask=stored)
