"""The whole layer on the native kernels: projections, both paths and their sum, in float32 on dense [B, C, H, W]."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl.cpu.scratch import kept_memory, scratch, stays
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow

__all__ = ["layer", "layer_backward"]

# Bytes of q, k and v that are computed before the paths read them: several images of a small map, one of a large one.
_FORWARD_BYTES = 3 * 2**20
# The same for each thread where it has images of its own. From so many images for each on, an uneven rest is small.
_THREAD_BYTES = 3 * 2**19
_EVEN = 8
# Of a larger image, so much is there at a time for all threads, and rows enough for so many of the output.
_STRIP_BYTES = 6 * 2**20
_STRIP_ROWS = 8
# Pieces whole pages apart share few places of the first cache: so many rows of nothing keep them from it, if any can.
_PAGE_BYTES = 4096
_ROWS_BETWEEN = (2, 1)
# The same in the backward pass, where all threads share the images and the images share the parameters' sums.
_BACKWARD_BYTES = 5 * 2**20
# From so many bytes of q, k and v on, and so many pixels for each channel of x, each image has sums of its own. Threads
# take images of their own where these are no larger than _OWN_BYTES; else all threads share one.
_APART_BYTES = 2**20
_APART_PIXELS = 2
_OWN_BYTES = 5 * 2**20
_FIELDS = LayerInputs._fields
_GRID = _FIELDS.index("grid")
# Channels of x are turned so many at a time, or by a part of that; pixels as many as have room, but so many.
_TURNED = 64
_TURNED_BYTES = 6 * 2**20
_TURNED_APART_BYTES = 2 * 2**20  # for each image that has its own sums: how these round depends on no number of threads
_TURNED_PIXELS = 1024


def _dense(inputs: LayerInputs) -> LayerInputs:
    if all(x is None or x.is_contiguous() for x in inputs):
        return inputs
    return LayerInputs(*(None if x is None else x.contiguous() for x in inputs))  # type: ignore[arg-type]  # the same are None


def layer(inputs: LayerInputs, window: LayerWindow, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Output [B, C, H', W'] of both paths and, where `keep` asks for them, q, k and v as [B, 3, N, D, H, W]."""
    inputs = _dense(inputs)
    x = inputs.x
    kernel = 0 if inputs.shift_weight is None else inputs.shift_weight.shape[3]
    plan = _forward_plan(x.shape, inputs.query.shape[0], window, kernel, keep, torch.get_num_threads())
    out = x.new_empty(plan.out)
    projected = kept_memory(x, plan.projected) if keep else scratch("projected", plan.projected)
    torch.ops.acmix_cpu.layer_forward(
        *inputs, out, projected, _code(inputs, plan.code), plan.rows, *window, inputs.scale(window),
        plan.threads, plan.together,
    )  # fmt: skip
    return out, projected if keep else None


class _ForwardPlan(NamedTuple):
    """Shapes of the output and of memory; rows of a map that are there at a time; the shares."""

    out: tuple[int, ...]
    projected: tuple[int, ...]
    code: tuple[int, ...]
    rows: int
    threads: int
    together: int


@lru_cache(maxsize=256)
def _forward_plan(
    x: tuple[int, ...], channels: int, window: LayerWindow, kernel_conv: int, keep: bool, threads: int
) -> _ForwardPlan:
    """By the shapes alone: a network asks for the same few again and again."""
    batch, _, height, width = x
    image = (1, 3, window.heads, channels // window.heads, height, width)
    most, together = _shares(batch, 4 * math.prod(image), threads)
    rows = height
    projected: tuple[int, ...] = (batch, *image[1:])
    if not keep:
        slots = min(most, -(-batch // together))
        if together == 1:
            rows = _rows(image, slots, window, kernel_conv, threads)
            rows += _rows_between(image, slots) if rows == height else 0
        projected = (slots * together, *image[1:4], rows, width)
    out = (batch, channels, output_size(height, window.stride), output_size(width, window.stride))
    return _ForwardPlan(out, projected, image[3:], rows, most, together)


def _code(inputs: LayerInputs, shape: tuple[int, ...]) -> Tensor:
    """Memory for the position code [D, H, W], where there is one; kernels that take it in parts leave it untouched."""
    return scratch("code", shape if inputs.grid is not None else (0,))


def _shares(batch: int, image: int, threads: int) -> tuple[int, int]:
    """How many threads take images of their own, or 1 where all share each, and how many images are computed at a time.

    Threads that find no more images help the others, stage by stage. Large images that do not come out even are shared.
    """
    if threads > 1 and (batch % threads == 0 or batch >= _EVEN * threads or image <= _STRIP_BYTES):
        share = -(-batch // threads)
        most = max(1, min(share, _THREAD_BYTES // image))
        return threads, -(-share // -(-share // most))  # equal parts of a share
    return 1, max(1, min(batch, _FORWARD_BYTES // image))


def _rows(shape: tuple[int, ...], slots: int, window: LayerWindow, kernel_conv: int, threads: int) -> int:
    """Rows of q, k and v that each slot has room for: all, or some of a large map."""
    height = shape[4]
    room = max(_STRIP_BYTES, _THREAD_BYTES * threads) // slots
    reach = max(window.kernel_size, kernel_conv) // 2 * window.dilation
    rows = max(room * height // (4 * math.prod(shape)), 2 * reach + _STRIP_ROWS * window.stride)
    if rows >= height:
        return height
    strips = -(-(height - 2 * reach) // (rows - 2 * reach))
    # Strips of about the same size; kernels take output rows in pairs.
    return min(rows, -(-(height - 2 * reach) // strips) + 2 * reach + 2 * window.stride)


def _rows_between(shape: tuple[int, ...], slots: int) -> int:
    """Rows behind each map where the pieces would lie whole pages apart without them."""
    *outer, height, width = shape[1:]
    row = 4 * shape[3] * width
    if row * height % _PAGE_BYTES:
        return 0
    helping = (
        rows for rows in _ROWS_BETWEEN if row * rows % _PAGE_BYTES and stays((slots, *outer, height + rows, width))
    )
    return next(helping, 0)


def _shares_backward(x: tuple[int, ...], image: int, threads: int) -> tuple[bool, int]:
    """Whether each image has sums of its own, and how many images there is memory for at a time."""
    batch, channels, height, width = x
    if image < _APART_BYTES or height * width < _APART_PIXELS * channels:
        most = max(1, _BACKWARD_BYTES // image)
        return False, -(-batch // -(-batch // most))  # as many each time
    return True, min(threads, batch) if image <= _OWN_BYTES else 1


class _BackwardPlan(NamedTuple):
    """Shape of q, k and v and of their gradients; whether images have sums of their own; entries for x, turned."""

    projected: tuple[int, ...]
    apart: bool
    turned: int


@lru_cache(maxsize=256)
def _backward_plan(x: tuple[int, ...], channels: int, heads: int, threads: int) -> _BackwardPlan:
    """By the shapes and the number of threads alone."""
    _, in_channels, height, width = x
    image = (3, heads, channels // heads, height, width)
    apart, images = _shares_backward(x, 4 * math.prod(image), threads)
    return _BackwardPlan((images, *image), apart, _turned_entries(in_channels, height * width, images, apart))


def _turned_entries(channels: int, pixels: int, images: int, apart: bool) -> int:
    """Memory for x turned, of all pixels or of as many at a time as have room."""
    channels = -(-channels // _TURNED) * _TURNED
    room = _TURNED_APART_BYTES if apart else _TURNED_BYTES // images
    return images * channels * min(pixels, max(_TURNED_PIXELS, room // (4 * channels)))


def _for_images(name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Memory [B, 3, N, D, H, W] of a backward pass: a thread's own or, of large maps, what the next layers take too."""
    return scratch(name, shape) if stays(shape) else kept_memory(x, shape)


def layer_backward(
    grad: Tensor, inputs: LayerInputs, projected: Tensor | None, window: LayerWindow, wants_x: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs, in their order; of x where `wants_x` asks for it.

    Where the forward pass has not kept q, k and v, they are computed again, some images at a time.
    """
    inputs = _dense(inputs)
    x = inputs.x
    threads = torch.get_num_threads()
    shape, apart, entries = _backward_plan(x.shape, inputs.query.shape[0], window.heads, threads)
    unwanted = ("grid",) if wants_x else ("grid", "x")
    grads = [
        None if given is None or name in unwanted else torch.empty_like(given)
        for name, given in zip(_FIELDS, inputs, strict=True)
    ]
    if not window.kernel_size:  # nothing comes through a path that is not there
        for name in ("position_weight", "position_bias", "rate"):
            grad_of = grads[_FIELDS.index(name)]
            if grad_of is not None:
                grad_of.zero_()
    kept = projected is not None
    if projected is None:
        projected = _for_images("projected", x, shape)
    # x, turned, takes the place of q, k and v where they are no more needed.
    turned = scratch("turned", (entries,)) if kept or entries > projected.numel() else projected
    torch.ops.acmix_cpu.layer_backward(
        grad.contiguous(), *inputs, projected, kept, _for_images("gradients", x, shape), turned,
        _code(inputs, shape[3:]), *grads[:_GRID], *grads[_GRID + 1 :],
        *window, inputs.scale(window), threads, apart,
    )  # fmt: skip
    return tuple(grads)
