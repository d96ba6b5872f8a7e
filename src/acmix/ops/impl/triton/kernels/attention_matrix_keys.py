"""The gradients of keys and values on matrix units, for half precision and wide heads.

Every program owns 8 x 8 keys and takes the queries that see them a few rows of 16 at a time.
"""

import triton
import triton.language as tl

from acmix.ops.impl.triton.kernels.attention_matrix import LOG2_E
from acmix.ops.impl.triton.kernels.matrix_tiles import (
    OTHER_COLUMNS,
    OWN_SIDE,
    counts,
    load_block,
    numbers_of,
    other_pixels,
    own_pixels,
    product,
    reach_of,
    store_block,
)
from acmix.ops.impl.triton.kernels.window import image_of


@triton.jit
def matrix_backward_keys(
    grad, q, k, v, position, lse, delta, grad_k, grad_v,
    grad_strides, q_strides, k_strides, v_strides, position_strides, grad_k_strides, grad_v_strides,
    heads, height, width, radius, scale,
    HEAD: tl.constexpr, REPEATED: tl.constexpr, WIDE: tl.constexpr, HAS_POSITION: tl.constexpr,
    D: tl.constexpr, D_AXIS: tl.constexpr, BAND: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """grad_k, grad_v [B, N, D, H, W]."""
    across = tl.cdiv(width, OWN_SIDE)
    tiles = tl.cdiv(height, OWN_SIDE) * across
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    top, left, y, x = own_pixels(tl.program_id(0) % tiles, across)
    k = image_of(k, k_strides, batch, head)
    v = image_of(v, v_strides, batch, head)
    q = image_of(q, q_strides, batch, head)
    grad = image_of(grad, grad_strides, batch, head)
    key = tl.trans(load_block(k, k_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE))
    value = tl.trans(load_block(v, v_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE))
    code = key
    if HAS_POSITION:
        code = tl.trans(load_block(position, position_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE))

    of_keys = tl.zeros([OWN_SIDE * OWN_SIDE, D], tl.float32)
    of_values = tl.zeros([OWN_SIDE * OWN_SIDE, D], tl.float32)
    first_row, last_row = reach_of(top, height, radius)
    first_column, last_column = reach_of(left, width, radius)
    for row in range(first_row, last_row, BAND):
        for column in range(first_column, last_column, OTHER_COLUMNS):
            query_y, query_x = other_pixels(row, column, BAND)
            query = load_block(q, q_strides, query_y, query_x, height, width, HEAD, D, D_AXIS, WIDE)
            grads = load_block(grad, grad_strides, query_y, query_x, height, width, HEAD, D, D_AXIS, WIDE)
            sums = numbers_of(image, query_y, query_x, height, width, WIDE)
            logs, offset = tl.load(lse + sums) * LOG2_E, tl.load(delta + sums)
            logits = product(key, query, WIDEN)
            if HAS_POSITION:
                logits -= product(code, query, WIDEN)
            count = counts(query_y[None, :], y[:, None], (query_y < height)[None, :], height, radius, REPEATED)
            count *= counts(query_x[None, :], x[:, None], (query_x < width)[None, :], width, radius, REPEATED)
            # A query that does not see the key may have any logit with it.
            weight = tl.where(count > 0, tl.exp2(logits * (scale * LOG2_E) - logs[None, :]) * count, 0.0)
            of_values += product(weight.to(grads.dtype), tl.trans(grads), WIDEN)
            grad_logits = weight * (product(value, grads, WIDEN) - offset[None, :])
            of_keys += product(grad_logits.to(query.dtype), tl.trans(query), WIDEN)

    grad_k = image_of(grad_k, grad_k_strides, batch, head)
    grad_v = image_of(grad_v, grad_v_strides, batch, head)
    store_block(grad_k, grad_k_strides, y, x, height, width, of_keys * scale, HEAD, D, D_AXIS, WIDE)
    store_block(grad_v, grad_v_strides, y, x, height, width, of_values, HEAD, D, D_AXIS, WIDE)
