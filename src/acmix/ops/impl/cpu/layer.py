"""The whole layer on the native kernels: projections, both paths and their sum, in float32 on dense [B, C, H, W]."""

import torch
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl.cpu.convolution import pull_back_composed
from acmix.ops.impl.layer_inputs import LayerInputs, LayerWindow

__all__ = ["layer", "layer_backward"]

# Bytes of q, k and v that are computed before the paths read them: several images of a small map, one of a large one.
_PROJECTED_BYTES = 3 * 2**20


def _dense(inputs: LayerInputs) -> LayerInputs:
    return LayerInputs(*(None if x is None else x.contiguous() for x in inputs))  # type: ignore[arg-type]  # the same are None


def layer(inputs: LayerInputs, window: LayerWindow, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Output [B, C, H', W'] of both paths and, where `keep` asks for them, q, k and v as [B, 3, N, D, H, W]."""
    x, query, key, value, bias, position, fc_weight, shift_weight, rate = _dense(inputs)
    batch, _, height, width = x.shape
    channels, stride = query.shape[0], window.stride
    out = x.new_empty((batch, channels, output_size(height, stride), output_size(width, stride)))
    image = x.element_size() * 3 * channels * height * width
    images = batch if keep else max(1, min(batch, _PROJECTED_BYTES // image))
    projected = x.new_empty((images, 3, window.heads, channels // window.heads, height, width))
    tensors = x, query, key, value, bias, position, fc_weight, shift_weight, rate
    torch.ops.acmix_cpu.layer_forward(*tensors, out, projected, *window, inputs.scale(window))
    return out, projected if keep else None


def layer_backward(
    grad: Tensor, inputs: LayerInputs, projected: Tensor, window: LayerWindow, wants_x: bool
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs, in their order; of x where `wants_x` asks for it."""
    x, query, key, value, bias, position, fc_weight, shift_weight, rate = _dense(inputs)
    heads, *steps = window
    channels, in_channels = query.shape[:2]
    # At a stride the attention path gives nothing to the queries in between.
    strided = window.stride > 1 and window.kernel_size
    grad_projected = (projected.new_zeros if strided else projected.new_empty)(projected.shape)
    grad_composed = None
    if fc_weight is not None and shift_weight is not None:
        grad_composed = x.new_empty((channels, fc_weight.shape[1], *shift_weight.shape[2:]))
    grad_rates = None if rate is None else x.new_empty((x.shape[0], heads))
    grad_position = None if position is None else position.new_empty(position.shape)
    tensors = grad.contiguous(), projected, position, fc_weight, shift_weight, rate
    grads = grad_projected, grad_rates, grad_position, grad_composed
    torch.ops.acmix_cpu.layer_backward(*tensors, *grads, *steps, inputs.scale(window))
    grad_x = None
    if wants_x:
        grad_x = x.new_empty(x.shape)
        torch.ops.acmix_cpu.project_back(grad_projected, query, key, value, grad_x)
    # Image by image: one product over the whole batch would need both operands copied.
    grad_weight = x.new_zeros((3 * channels, in_channels))
    for image, gradient in zip(x.flatten(2), grad_projected.flatten(4).flatten(1, 3), strict=True):
        grad_weight.addmm_(gradient, image.mT)
    parts = (part.reshape(query.shape).clone() for part in grad_weight.split(channels))
    grad_bias = None if bias is None else grad_projected.flatten(1, 3).sum((0, 2, 3))
    grad_fc = grad_shift = None
    if fc_weight is not None and shift_weight is not None and grad_composed is not None:
        grad_fc, grad_shift = pull_back_composed(grad_composed, fc_weight, shift_weight)
    grad_rate = None if grad_rates is None else grad_rates.sum().view(1)
    return grad_x, *parts, grad_bias, grad_position, grad_fc, grad_shift, grad_rate
