"""The whole layer on the native kernels: projections, both paths and their sum, in float32 on dense [B, C, H, W]."""

import math

import torch
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl.cpu.convolution import pull_back_composed
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow

__all__ = ["layer", "layer_backward"]

# Bytes of q, k and v that are computed before the paths read them: several images of a small map, one of a large one.
_FORWARD_BYTES = 3 * 2**20
# The same for each thread where it has images of its own. From so many images for each on, an uneven rest is small.
_THREAD_BYTES = 3 * 2**19
_EVEN = 8
# More in the backward pass, since its units are larger.
_BACKWARD_BYTES = 5 * 2**20


def _dense(inputs: LayerInputs) -> LayerInputs:
    return LayerInputs(*(None if x is None else x.contiguous() for x in inputs))  # type: ignore[arg-type]  # the same are None


def layer(inputs: LayerInputs, window: LayerWindow, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Output [B, C, H', W'] of both paths and, where `keep` asks for them, q, k and v as [B, 3, N, D, H, W]."""
    x, query, key, value, bias, position, fc_weight, shift_weight, rate = _dense(inputs)
    batch, _, height, width = x.shape
    channels, stride = query.shape[0], window.stride
    out = x.new_empty((batch, channels, output_size(height, stride), output_size(width, stride)))
    image = x.element_size() * math.prod(_projected_shape(inputs, window, 1))
    chunks, together = _shares(batch, image)
    projected = x.new_empty(_projected_shape(inputs, window, batch if keep else min(batch, chunks * together)))
    tensors = x, query, key, value, bias, position, fc_weight, shift_weight, rate
    torch.ops.acmix_cpu.layer_forward(*tensors, out, projected, *window, inputs.scale(window), chunks, together)
    return out, projected if keep else None


def _shares(batch: int, image: int) -> tuple[int, int]:
    """Chunks of the batch, one for each thread or one for all together, and how many images are computed at a time."""
    threads = torch.get_num_threads()
    if threads > 1 and (batch % threads == 0 or batch >= _EVEN * threads):
        return threads, max(1, min(-(-batch // threads), _THREAD_BYTES // image))
    return 1, max(1, min(batch, _FORWARD_BYTES // image))


def _projected_shape(inputs: LayerInputs, window: LayerWindow, images: int) -> tuple[int, ...]:
    channels, (height, width) = inputs.query.shape[0], inputs.x.shape[2:]
    return images, 3, window.heads, channels // window.heads, height, width


class _Sums:
    """The gradients that are sums over images, of some images after the others."""

    def __init__(self) -> None:
        self.sums: list[Tensor | None] = []

    def add(self, *parts: Tensor | None) -> None:
        if not self.sums:
            self.sums = list(parts)
            return
        for total, part in zip(self.sums, parts, strict=True):
            if total is not None and part is not None:
                total += part


def layer_backward(
    grad: Tensor, inputs: LayerInputs, projected: Tensor | None, window: LayerWindow, wants_x: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs, in their order; of x where `wants_x` asks for it.

    Where the forward pass has not kept q, k and v, they are computed again, some images at a time.
    """
    inputs, grad = _dense(inputs), grad.contiguous()
    x, query, key, value, bias, position, fc_weight, shift_weight, rate = inputs
    channels, in_channels = query.shape[:2]
    batch = len(x)
    image = x.element_size() * math.prod(_projected_shape(inputs, window, 1))
    images = batch if projected is not None else max(1, min(batch, _BACKWARD_BYTES // image))
    shape = _projected_shape(inputs, window, images)
    kept = x.new_empty(shape) if projected is None else projected
    # At a stride the attention path gives nothing to the queries in between.
    strided = window.stride > 1 and window.kernel_size > 0
    grad_kept = x.new_empty(shape)
    grad_x = x.new_empty(x.shape) if wants_x else None
    grad_rates = None if rate is None else x.new_empty((batch, window.heads))
    grad_weight, sums = x.new_zeros((3 * channels, in_channels)), _Sums()
    for first in range(0, batch, images):
        some = slice(first, min(first + images, batch))
        some_x, some_kept, some_grad = x[some], kept[: some.stop - first], grad_kept[: some.stop - first]
        if projected is None:
            torch.ops.acmix_cpu.project(some_x, query, key, value, bias, some_kept)
        if strided:
            some_grad.zero_()
        grad_position = None if position is None else torch.empty_like(position)
        grad_composed = None
        if fc_weight is not None and shift_weight is not None:
            grad_composed = x.new_empty((channels, fc_weight.shape[1], *shift_weight.shape[2:]))
        some_rates = None if grad_rates is None else grad_rates[some]
        torch.ops.acmix_cpu.layer_backward(
            grad[some], some_kept, position, fc_weight, shift_weight, rate, some_grad, some_rates, grad_position,
            grad_composed, *window[1:], inputs.scale(window),
        )  # fmt: skip
        if grad_x is not None:
            torch.ops.acmix_cpu.project_back(some_grad, query, key, value, grad_x[some])
        # Image by image: one product over all of them would need both operands copied.
        for one, gradient in zip(some_x.flatten(2), some_grad.flatten(4).flatten(1, 3), strict=True):
            grad_weight.addmm_(gradient, one.mT)
        grad_bias = None if bias is None else some_grad.flatten(1, 3).sum((0, 2, 3))
        sums.add(grad_bias, grad_position, grad_composed)
    parts = (part.reshape(query.shape).clone() for part in grad_weight.split(channels))
    grad_bias, grad_position, grad_composed = sums.sums
    grad_fc = grad_shift = None
    if fc_weight is not None and shift_weight is not None and grad_composed is not None:
        grad_fc, grad_shift = pull_back_composed(grad_composed, fc_weight, shift_weight)
    grad_rate = None if grad_rates is None else grad_rates.sum().view(1)
    return grad_x, *parts, grad_bias, grad_position, grad_fc, grad_shift, grad_rate
