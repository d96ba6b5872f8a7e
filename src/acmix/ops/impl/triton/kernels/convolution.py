"""The composed group convolution: its output, the gradient of its inputs and that of its weights.

Every group has a handful of inputs and outputs, far too few for a matrix unit's tiles: a thread holds a few pixels with
all outputs of a group, and weights are read once for all of them. Sums are held in float32.
"""

import triton
import triton.language as tl


@triton.jit
def pixels_of(rows, columns, WIDE: tl.constexpr):
    """How many pixels a map has."""
    if WIDE:
        rows = tl.cast(rows, tl.int64)
    return rows * columns


@triton.jit
def tile_of(tile, count, columns, PLACES: tl.constexpr, WIDE: tl.constexpr):
    """Row and column [P] of a tile's pixels, and whether they are there; those past the end repeat the last one."""
    if WIDE:
        tile = tl.cast(tile, tl.int64)
    index = tile * PLACES + tl.arange(0, PLACES)
    number = tl.minimum(index, count - 1)
    return number // columns, number % columns, index < count


@triton.jit
def source(target, shift, size, STRIDE: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Along one axis: what a target reads through a tap `shift` pixels away, and whether it is there."""
    if TRANSPOSED:
        place = target - shift
        inside = (place >= 0) & (place % STRIDE == 0) & (place // STRIDE < size)
        place = place // STRIDE
    else:
        place = target * STRIDE + shift
        inside = (place >= 0) & (place < size)
    return tl.where(inside, place, 0), inside


@triton.jit
def shift_and_mix(
    x, weights, out,
    x_strides, out_strides,
    groups, x_rows, x_columns, rows, columns, dilation,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr, WIDE: tl.constexpr, O: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """out [B, G, OUTPUTS, rows, columns] of x [B, G, INPUTS, x_rows, x_columns] and weights [G, k * k, INPUTS, O].

    `TRANSPOSED`: the gradient of a convolution's input from that of its output; STRIDE is the convolution's.
    """
    count = pixels_of(rows, columns, WIDE)
    tiles = tl.cdiv(count, PLACES)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    batch, group = image // groups, image % groups
    row, column, stored = tile_of(tl.program_id(0) % tiles, count, columns, PLACES, WIDE)
    x += batch * x_strides[0] + group * x_strides[1]
    outputs = tl.arange(0, O)
    weights += group * (KERNEL * KERNEL * INPUTS * O) + outputs
    mixed = tl.zeros([O, PLACES], tl.float32)
    for tap in range(KERNEL * KERNEL):
        y, inside_y = source(row, (tap // KERNEL - KERNEL // 2) * dilation, x_rows, STRIDE, TRANSPOSED)
        z, inside_x = source(column, (tap % KERNEL - KERNEL // 2) * dilation, x_columns, STRIDE, TRANSPOSED)
        inside = inside_y & inside_x
        place = x + (y * x_strides[3] + z * x_strides[4])
        of_tap = weights + tap * (INPUTS * O)
        for _ in range(INPUTS):
            values = tl.load(place, mask=inside, other=0.0).to(tl.float32)
            mixed += tl.expand_dims(tl.load(of_tap), 1) * tl.expand_dims(values, 0)
            place += x_strides[2]
            of_tap += O
    out += batch * out_strides[0] + group * out_strides[1]
    target = out + tl.expand_dims(row * out_strides[3] + column * out_strides[4], 0)
    if WIDE:
        outputs = outputs.to(tl.int64)
    there = tl.expand_dims(stored, 0) & tl.expand_dims(outputs < OUTPUTS, 1)
    tl.store(target + tl.expand_dims(outputs, 1) * out_strides[2], mixed.to(out.dtype.element_ty), mask=there)


@triton.jit
def weight_sums(
    grad, x, sums,
    grad_strides, x_strides,
    images, groups, x_rows, x_columns, rows, columns, dilation, chunks, blocks,
    PIECES: tl.constexpr, OUTPUTS: tl.constexpr, KERNEL: tl.constexpr, STRIDE: tl.constexpr, WIDE: tl.constexpr,
    T: tl.constexpr, O: tl.constexpr, J: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """sums [chunks, G, OUTPUTS, PIECES, k, k]: gradients of the weights, each of a part of all pixels of all images.

    A program owns T taps of a kernel's row, J pieces and all outputs of a group, and walks over its blocks of pixels.
    """
    parts: tl.constexpr = (PIECES + J - 1) // J
    part = tl.program_id(0) % parts
    tap_row = tl.program_id(0) // parts % KERNEL
    rest = tl.program_id(0) // parts // KERNEL
    group, chunk = rest % groups, rest // groups
    count = pixels_of(rows, columns, WIDE)
    tiles = tl.cdiv(count, PLACES)
    taps, outputs, pieces = tl.arange(0, T), tl.arange(0, O), part * J + tl.arange(0, J)
    shifts = tl.expand_dims((taps - KERNEL // 2) * dilation, 1)
    # Of the pieces [T, 1, J, P], of the outputs [1, O, 1, P].
    readable = tl.minimum(pieces, PIECES - 1)
    real = tl.minimum(outputs, OUTPUTS - 1)
    if WIDE:
        readable, real = readable.to(tl.int64), real.to(tl.int64)
    of_piece = tl.expand_dims(tl.expand_dims(tl.expand_dims(readable * x_strides[2], 0), 0), 3)
    of_output = tl.expand_dims(tl.expand_dims(tl.expand_dims(real * grad_strides[2], 0), 2), 3)
    total = tl.zeros([T, O, J, PLACES], tl.float32)
    for block in range(chunk * blocks, tl.minimum((chunk + 1) * blocks, images * tiles)):
        image = (block // tiles).to(tl.int64)
        row, column, there = tile_of(block % tiles, count, columns, PLACES, WIDE)
        y, inside_y = source(row, (tap_row - KERNEL // 2) * dilation, x_rows, STRIDE, False)
        z, inside_x = source(tl.expand_dims(column, 0), shifts, x_columns, STRIDE, False)
        inside = inside_x & tl.expand_dims(inside_y & there, 0)
        place = tl.expand_dims(y, 0) * x_strides[3] + z * x_strides[4]
        at = x + (image * x_strides[0] + group.to(tl.int64) * x_strides[1])
        values = tl.load(
            at + tl.expand_dims(tl.expand_dims(place, 1), 1) + of_piece,
            mask=tl.expand_dims(tl.expand_dims(inside, 1), 1),
            other=0.0,
        ).to(tl.float32)
        own = row * grad_strides[3] + column * grad_strides[4]
        at = grad + (image * grad_strides[0] + group.to(tl.int64) * grad_strides[1])
        grads = tl.load(at + tl.expand_dims(tl.expand_dims(tl.expand_dims(own, 0), 0), 0) + of_output).to(tl.float32)
        total += values * grads
    result = tl.sum(total, 3)
    tap, output, piece = (
        tl.expand_dims(tl.expand_dims(taps, 1), 1),
        tl.expand_dims(tl.expand_dims(outputs, 0), 2),
        tl.expand_dims(tl.expand_dims(pieces, 0), 0),
    )
    target = (((chunk * groups + group).to(tl.int64) * OUTPUTS + output) * PIECES + piece) * KERNEL + tap_row
    there = (tap < KERNEL) & (output < OUTPUTS) & (piece < PIECES)
    tl.store(sums + target * KERNEL + tap, result, mask=there)
