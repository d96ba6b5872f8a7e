"""The gradients of window attention's keys and values: programs own keys and walk over the queries that see them.

So nothing is scattered, no two programs write to one place, and two runs agree to the bit. With reflected borders a
query sees a key up to several times; all that do lie within the window's reach of it, and `multiplicity` counts.
"""

import triton
import triton.language as tl

from acmix.ops.impl.triton.kernels.attention import LOG2_E, key_and_value, places_of, rows_below, tiles_of
from acmix.ops.impl.triton.kernels.window import (
    along_places,
    channels_of,
    image_of,
    load,
    multiplicity,
    pixels,
    positive_remainder,
    whole_product,
)


@triton.jit
def meets(distance, phase, border, STRIDE: tl.constexpr, DILATION: tl.constexpr):
    """Whether a query so far from some of the tile's keys may see them: it lies at the stride, and in a window.

    Off the window's spacing only where reflection changes distances, at the borders.
    """
    at_stride = positive_remainder(phase + distance, STRIDE) == 0
    if DILATION > 1:
        at_stride = at_stride & (border | (positive_remainder(distance, DILATION) == 0))
    return at_stride


@triton.jit
def is_at_border(first, last, size, reach):
    """Whether reflection reaches some of the keys from `first` to `last`, scalars."""
    return (first <= reach) | (last >= size - 1 - reach)


@triton.jit
def attention_backward_keys(
    grad, q, k, v, position, lse, delta, grad_k, grad_v,
    grad_strides, q_strides, k_strides, v_strides, position_strides, grad_k_strides, grad_v_strides,
    heads, height, width, rows, columns, radius, scale,
    HEAD: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr, REPEATED: tl.constexpr,
    WIDE: tl.constexpr, HAS_POSITION: tl.constexpr, ALIKE: tl.constexpr,
    D: tl.constexpr, PARTS: tl.constexpr, PLACES: tl.constexpr, ROWS: tl.constexpr, D_AXIS: tl.constexpr,
):  # fmt: skip
    """grad_k, grad_v [B, N, D, H, W]; a program owns keys that are a stride apart, which one step's queries all see."""
    if ALIKE:
        v_strides, grad_v_strides = k_strides, grad_k_strides
    reach = radius * DILATION
    tiles = tiles_of(tl.cdiv(height, STRIDE), tl.cdiv(width, STRIDE), PLACES, ROWS, WIDE)
    part, program = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS
    tile = program % tiles
    phase = program // tiles % (STRIDE * STRIDE)
    image = (program // tiles // (STRIDE * STRIDE)).to(tl.int64)
    batch, head = image // heads, image % heads
    top, left = phase // STRIDE, phase % STRIDE
    # Pixels of this phase along both axes; none where the stride is longer than one of them.
    tall, wide = tl.cdiv(height - top, STRIDE), tl.cdiv(width - left, STRIDE)
    row, column, there = places_of(tile, tall, wide, PLACES, ROWS, WIDE)
    channels = channels_of(part, D, D_AXIS, WIDE)
    inside = channels < HEAD
    MASKED: tl.constexpr = HEAD % D != 0

    first = tile * PLACES // tl.maximum(wide, 1) * ROWS * STRIDE + top
    last = ((tile * PLACES + PLACES - 1) // tl.maximum(wide, 1) * ROWS + ROWS - 1) * STRIDE + top
    border = is_at_border(first, last, height, reach) | REPEATED
    own_rows = rows_below(row, ROWS) * STRIDE + top
    column = column * STRIDE + left
    y = tl.expand_dims(tl.minimum(own_rows, height - 1), D_AXIS)
    x = along_places(tl.minimum(column, width - 1), D_AXIS)
    k = image_of(k, k_strides, batch, head)
    v = image_of(v, v_strides, batch, head)
    q = image_of(q, q_strides, batch, head)
    grad = image_of(grad, grad_strides, batch, head)
    lse += image * rows * columns
    delta += image * rows * columns
    keys, values = key_and_value(
        k, v, position, k_strides, v_strides, position_strides, channels, inside, y, x, MASKED, HAS_POSITION
    )
    keys *= scale * LOG2_E

    of_keys, of_values = tl.zeros_like(keys), tl.zeros_like(values)
    near_y, near_x = reach, reach
    if REPEATED:
        # Beyond a map that is smaller than the window there are no queries.
        near_y, near_x = tl.minimum(reach, height - 1), tl.minimum(reach, width - 1)
    for step in range(2 * near_y + ROWS):
        if meets(step - near_y, top, border, STRIDE, DILATION):
            query_row = row * STRIDE + top + (step - near_y)
            times = multiplicity(tl.expand_dims(query_row, 0), own_rows, height, radius, DILATION, REPEATED)
            seen_row = tl.minimum(tl.maximum(query_row, 0), height - 1) // STRIDE
            for side in range(2 * near_x + 1):
                if meets(side - near_x, left, True, STRIDE, DILATION):
                    query_column = column + (side - near_x)
                    across = multiplicity(query_column, column, width, radius, DILATION, REPEATED)
                    seen_column = tl.minimum(tl.maximum(query_column, 0), width - 1) // STRIDE
                    sums = seen_row * columns + seen_column
                    logs, offset = tl.load(lse + sums) * LOG2_E, tl.load(delta + sums)
                    query_y, query_x = along_places(seen_row, D_AXIS), along_places(seen_column, D_AXIS)
                    query = load(pixels(q, q_strides, channels, query_y, query_x), inside, MASKED)
                    grads = load(pixels(grad, grad_strides, channels, query_y, query_x), inside, MASKED)
                    count = times * tl.expand_dims(across, 0)
                    if PARTS == 1:
                        logits, gain = tl.sum(query * keys, D_AXIS), tl.sum(grads * values, D_AXIS)
                    else:
                        logits = whole_product(
                            q, q_strides, query_y, query_x, k, k_strides, y, x, position, position_strides,
                            HEAD, PARTS, D, D_AXIS, WIDE, HAS_POSITION,
                        ) * (scale * LOG2_E)  # fmt: skip
                        gain = whole_product(
                            grad, grad_strides, query_y, query_x, v, v_strides, y, x, v, v_strides,
                            HEAD, PARTS, D, D_AXIS, WIDE, False,
                        )  # fmt: skip
                    logits -= tl.expand_dims(logs, 0)
                    # A query that does not see the key may have any logit with it.
                    weight = tl.where(count > 0, tl.exp2(logits) * count, 0.0)
                    of_values += tl.expand_dims(weight, D_AXIS) * grads
                    grad_logits = weight * (gain - tl.expand_dims(offset, 0))
                    of_keys += tl.expand_dims(grad_logits, D_AXIS) * query

    stored = tl.expand_dims((own_rows < height) & tl.expand_dims(there, 0), D_AXIS) & inside
    grad_k = image_of(grad_k, grad_k_strides, batch, head)
    grad_v = image_of(grad_v, grad_v_strides, batch, head)
    of_keys *= scale
    tl.store(pixels(grad_k, grad_k_strides, channels, y, x), of_keys.to(grad_k.dtype.element_ty), mask=stored)
    tl.store(pixels(grad_v, grad_v_strides, channels, y, x), of_values.to(grad_v.dtype.element_ty), mask=stored)
