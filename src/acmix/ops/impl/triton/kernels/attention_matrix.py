"""Window attention on matrix units, for half precision and wide heads: output, and gradient of the queries.

Every program owns 8 x 8 queries and takes the keys that they reach a few rows of 16 at a time; what a query does not
see weighs nothing. Products are of the inputs' dtype, sums, logits and softmax are float32.
"""

import triton
import triton.language as tl

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

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
_LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32: no finite logit is lower


@triton.jit
def matrix_forward(
    q, k, v, position, out, lse,
    q_strides, k_strides, v_strides, position_strides, out_strides,
    heads, height, width, radius, scale,
    HEAD: tl.constexpr, REPEATED: tl.constexpr, WIDE: tl.constexpr, HAS_POSITION: tl.constexpr,
    D: tl.constexpr, D_AXIS: tl.constexpr, BAND: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """out [B, N, D, H, W] and lse [B, N, H, W] of q, k, v [B, N, D, H, W]."""
    across = tl.cdiv(width, OWN_SIDE)
    tiles = tl.cdiv(height, OWN_SIDE) * across
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    top, left, y, x = own_pixels(tl.program_id(0) % tiles, across)
    # Queries beyond the map repeat those at its end: every query sees some key.
    seeing_y, seeing_x = tl.minimum(y, height - 1)[:, None], tl.minimum(x, width - 1)[:, None]
    k = image_of(k, k_strides, batch, head)
    v = image_of(v, v_strides, batch, head)
    query = load_block(image_of(q, q_strides, batch, head), q_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE)
    query = tl.trans(query)

    highest = tl.full([OWN_SIDE * OWN_SIDE], _LOWEST, tl.float32)
    total = tl.zeros([OWN_SIDE * OWN_SIDE], tl.float32)
    mixed = tl.zeros([OWN_SIDE * OWN_SIDE, D], tl.float32)
    first_row, last_row = reach_of(top, height, radius)
    first_column, last_column = reach_of(left, width, radius)
    for row in range(first_row, last_row, BAND):
        for column in range(first_column, last_column, OTHER_COLUMNS):
            key_y, key_x = other_pixels(row, column, BAND)
            key = load_block(k, k_strides, key_y, key_x, height, width, HEAD, D, D_AXIS, WIDE)
            value = load_block(v, v_strides, key_y, key_x, height, width, HEAD, D, D_AXIS, WIDE)
            logits = product(query, key, WIDEN)
            if HAS_POSITION:
                code = load_block(position, position_strides, key_y, key_x, height, width, HEAD, D, D_AXIS, WIDE)
                logits -= product(query, code, WIDEN)
            count = counts(seeing_y, key_y[None, :], (key_y < height)[None, :], height, radius, REPEATED)
            count *= counts(seeing_x, key_x[None, :], (key_x < width)[None, :], width, radius, REPEATED)
            logits = tl.where(count > 0, logits * (scale * LOG2_E), float("-inf"))
            higher = tl.maximum(highest, tl.max(logits, 1))
            shrink = tl.exp2(highest - higher)
            weight = tl.exp2(logits - higher[:, None]) * count
            total = total * shrink + tl.sum(weight, 1)
            mixed = mixed * shrink[:, None] + product(weight.to(value.dtype), tl.trans(value), WIDEN)
            highest = higher

    mixed = mixed / total[:, None]
    out = image_of(out, out_strides, batch, head)
    store_block(out, out_strides, y, x, height, width, mixed, HEAD, D, D_AXIS, WIDE)
    there = (y < height) & (x < width)
    tl.store(lse + numbers_of(image, y, x, height, width, WIDE), highest * LN_2 + tl.log(total), mask=there)


@triton.jit
def matrix_backward_queries(
    grad, q, k, v, position, out, lse, grad_q, delta,
    grad_strides, q_strides, k_strides, v_strides, position_strides, out_strides, grad_q_strides,
    heads, height, width, radius, scale,
    HEAD: tl.constexpr, REPEATED: tl.constexpr, WIDE: tl.constexpr, HAS_POSITION: tl.constexpr,
    D: tl.constexpr, D_AXIS: tl.constexpr, BAND: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """grad_q [B, N, D, H, W], and delta [B, N, H, W], each query's product of output and gradient."""
    across = tl.cdiv(width, OWN_SIDE)
    tiles = tl.cdiv(height, OWN_SIDE) * across
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, head = image // heads, image % heads
    top, left, y, x = own_pixels(tl.program_id(0) % tiles, across)
    # Queries beyond the map repeat those at its end: every query sees some key.
    seeing_y, seeing_x = tl.minimum(y, height - 1)[:, None], tl.minimum(x, width - 1)[:, None]
    k = image_of(k, k_strides, batch, head)
    v = image_of(v, v_strides, batch, head)
    query = load_block(image_of(q, q_strides, batch, head), q_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE)
    grad = image_of(grad, grad_strides, batch, head)
    grads = load_block(grad, grad_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE)
    out = image_of(out, out_strides, batch, head)
    attended = load_block(out, out_strides, y, x, height, width, HEAD, D, D_AXIS, WIDE)
    offset = tl.sum(grads.to(tl.float32) * attended.to(tl.float32), 0)
    there = (y < height) & (x < width)
    sums = numbers_of(image, y, x, height, width, WIDE)
    tl.store(delta + sums, offset, mask=there)
    logs = tl.load(lse + sums) * LOG2_E
    query, grads = tl.trans(query), tl.trans(grads)

    result = tl.zeros([OWN_SIDE * OWN_SIDE, D], tl.float32)
    first_row, last_row = reach_of(top, height, radius)
    first_column, last_column = reach_of(left, width, radius)
    for row in range(first_row, last_row, BAND):
        for column in range(first_column, last_column, OTHER_COLUMNS):
            key_y, key_x = other_pixels(row, column, BAND)
            key = load_block(k, k_strides, key_y, key_x, height, width, HEAD, D, D_AXIS, WIDE)
            value = load_block(v, v_strides, key_y, key_x, height, width, HEAD, D, D_AXIS, WIDE)
            logits = product(query, key, WIDEN)
            if HAS_POSITION:
                code = load_block(position, position_strides, key_y, key_x, height, width, HEAD, D, D_AXIS, WIDE)
                logits -= product(query, code, WIDEN)
                key = (key.to(tl.float32) - code.to(tl.float32)).to(value.dtype)
            count = counts(seeing_y, key_y[None, :], (key_y < height)[None, :], height, radius, REPEATED)
            count *= counts(seeing_x, key_x[None, :], (key_x < width)[None, :], width, radius, REPEATED)
            weight = tl.exp2(logits * (scale * LOG2_E) - logs[:, None]) * count
            grad_logits = weight * (product(grads, value, WIDEN) - offset[:, None])
            # A key that is not seen may have any logit.
            grad_logits = tl.where(count > 0, grad_logits, 0.0)
            result += product(grad_logits.to(value.dtype), tl.trans(key), WIDEN)

    grad_q = image_of(grad_q, grad_q_strides, batch, head)
    store_block(grad_q, grad_q_strides, y, x, height, width, result * scale, HEAD, D, D_AXIS, WIDE)
