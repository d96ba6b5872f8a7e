"""The convolution path on CUDA: composed, on Triton's kernels or on cuDNN's, or in two steps on cuDNN's."""

import torch
from torch import Tensor

from acmix.ops.impl import torch as portable
from acmix.ops.impl.cpu.convolution import pull_back_composed
from acmix.ops.impl.cpu.limits import bounded_stride
from acmix.ops.impl.torch.convolution import border_map, pull_back_border_map
from acmix.ops.impl.triton.convolution_forms import ShapeClass, choose_form
from acmix.ops.impl.triton.launching import extent_is_wide, next_power, on_device_of, zero_padded_dilation
from acmix.ops.layout import empty_pieces, empty_pieces_output, is_channels_last

__all__ = ["composed_forward", "composed_pieces_gradient", "composed_weight_gradient", "convolution_path"]
__all__ += ["convolution_path_backward"]

Weights = tuple[Tensor, Tensor, Tensor | None]

# Pixels of a program of four warps: a weight that is read serves four of a thread's pixels, or as many as there is room
# for beside its outputs.
_PLACES, _HELD = 512, 8192

# Parts of the weights' gradient: a number that depends on the sizes alone, so that two runs agree to the bit.
_MOST_CHUNKS, _LEAST_BLOCKS = 32, 8


def _form(pieces: Tensor, shift_weight: Tensor, stride: int, form: str) -> str:
    """What runs: "two_step", "cudnn" or "triton"; the last two may be asked for in the place of "composed"."""
    if form != "composed":
        return form
    groups, count = pieces.shape[1:3]
    outputs = shift_weight.shape[0] // groups
    size, kernel = max(pieces.shape[3:]), shift_weight.shape[3]
    last = is_channels_last(pieces)
    return choose_form(ShapeClass(pieces.dtype, last, groups, count, outputs, kernel, stride, size))


def _portable(form: str) -> str:
    """What the portable code, whose convolutions are cuDNN's on CUDA, calls a form."""
    return "two_step" if form == "two_step" else "composed"


def _compose(fc_weight: Tensor, shift_weight: Tensor) -> Tensor:
    """[k * k, P] and [C, k * k, k, k] -> [C, P, k, k], in float32: products of weights are not rounded on the way."""
    taps: Tensor = torch.matmul(fc_weight.float().mT, shift_weight.float().flatten(2))
    composed: Tensor = taps.unflatten(2, shift_weight.shape[2:])
    return composed


def _mix(x: Tensor, out: Tensor, weights: Tensor, stride: int, dilation: int, *, transposed: bool) -> None:
    """Fill out [B, G, O, ...] from x [B, G, I, ...] and weights [G, O, I, k, k]."""
    from acmix.ops.impl.triton.kernels.convolution import shift_and_mix

    groups, outputs, inputs, kernel, _ = weights.shape
    padded = next_power(outputs)
    # [G, k * k, I, O]: the outputs of a tap lie side by side.
    by_tap = weights.new_zeros((groups, kernel**2, inputs, padded))
    by_tap[..., :outputs] = weights.flatten(3).permute(0, 3, 2, 1)
    places = max(16, min(_PLACES, _HELD // padded))
    tiles = -(-out.shape[3] * out.shape[4] // places)
    if not out.numel():
        return
    with on_device_of(x):
        shift_and_mix[(x.shape[0] * groups * tiles,)](
            x, by_tap, out, x.stride(), out.stride(), groups, *x.shape[3:], *out.shape[3:], dilation,
            INPUTS=inputs, OUTPUTS=outputs, KERNEL=kernel, STRIDE=stride, TRANSPOSED=transposed,
            WIDE=extent_is_wide(x, out), O=padded, PLACES=places, num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip


def composed_forward(pieces: Tensor, weights: Tensor, stride: int, dilation: int) -> Tensor:
    """[B, G, P, H, W] and float32 [G, O, P, k, k] -> [B, G * O, H', W'] by Triton's kernel."""
    out = empty_pieces_output(pieces, weights.shape[0] * weights.shape[1], stride)
    _mix(pieces, out.unflatten(1, weights.shape[:2]), weights, stride, dilation, transposed=False)
    return out


def composed_pieces_gradient(grad: Tensor, pieces: Tensor, weights: Tensor, stride: int, dilation: int) -> Tensor:
    """The gradient of `composed_forward`'s pieces from that of its output, [B, G, O, H', W']."""
    grad_pieces = empty_pieces(pieces)
    _mix(grad, grad_pieces, weights.transpose(1, 2), stride, dilation, transposed=True)
    return grad_pieces


def composed_weight_gradient(grad: Tensor, pieces: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """The gradient of `composed_forward`'s weights, float32 [G, O, P, k, k]."""
    from acmix.ops.impl.triton.kernels.convolution import weight_sums

    batch, groups, count = pieces.shape[:3]
    outputs = grad.shape[2]
    taps, padded = next_power(kernel), next_power(outputs)
    shared = min(next_power(count), max(1, 64 // (taps * padded)))
    places = max(1, min(128, _HELD // (taps * padded * shared)))
    blocks = batch * -(-grad.shape[3] * grad.shape[4] // places)
    chunks = max(1, min(_MOST_CHUNKS, blocks // _LEAST_BLOCKS))
    sums = pieces.new_empty((chunks, groups, outputs, count, kernel, kernel), dtype=torch.float32)
    if not blocks:
        return sums.new_zeros(sums.shape[1:])
    with on_device_of(pieces):
        weight_sums[(chunks * groups * kernel * -(-count // shared),)](
            grad, pieces, sums, grad.stride(), pieces.stride(), batch, groups, *pieces.shape[3:], *grad.shape[3:],
            dilation, chunks, -(-blocks // chunks),
            PIECES=count, OUTPUTS=outputs, KERNEL=kernel, STRIDE=stride, WIDE=extent_is_wide(pieces, grad),
            T=taps, O=padded, J=shared, PLACES=places, num_warps=4, num_stages=1, enable_fp_fusion=True,
        )  # fmt: skip
    return sums.sum(0)


def convolution_path(pieces: Tensor, weights: Weights, stride: int, dilation: int, form: str) -> Tensor:
    """[B, D, P, H, W] -> [B, D * N, H', W'], channel d * N + n."""
    fc_weight, shift_weight, fc_bias = weights
    stride, dilation = bounded_stride(pieces.shape, stride), zero_padded_dilation(pieces, dilation)
    chosen = _form(pieces, shift_weight, stride, form)
    if chosen != "triton":
        return portable.convolution_path(pieces, weights, stride, dilation, _portable(chosen))
    composed = _compose(fc_weight, shift_weight).unflatten(0, (pieces.shape[1], -1))
    out = composed_forward(pieces, composed, stride, dilation)
    return out if fc_bias is None else out + border_map(fc_bias, shift_weight, pieces, stride, dilation)


def convolution_path_backward(
    grad: Tensor, pieces: Tensor, weights: Weights, stride: int, dilation: int, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of the pieces and of the three weights; what the forward pass did not keep is computed again."""
    fc_weight, shift_weight, fc_bias = weights
    stride, dilation = bounded_stride(pieces.shape, stride), zero_padded_dilation(pieces, dilation)
    chosen = _form(pieces, shift_weight, stride, form)
    if chosen != "triton":
        return portable.convolution_path_backward(grad, pieces, weights, stride, dilation, _portable(chosen))
    groups = pieces.shape[1]
    composed = _compose(fc_weight, shift_weight).unflatten(0, (groups, -1))
    rows = (grad if is_channels_last(pieces) else grad.contiguous()).unflatten(1, (groups, -1))
    grad_pieces = composed_pieces_gradient(rows, pieces, composed, stride, dilation)
    grad_composed = composed_weight_gradient(rows, pieces, shift_weight.shape[3], stride, dilation)
    grad_fc, grad_shift = pull_back_composed(grad_composed.flatten(0, 1), fc_weight.float(), shift_weight.float())
    grad_bias = None
    if fc_bias is not None:
        more_shift, grad_bias = pull_back_border_map(grad, fc_bias, shift_weight, pieces, (stride, dilation))
        grad_shift = grad_shift + more_shift
    return grad_pieces, grad_fc.to(fc_weight.dtype), grad_shift.to(shift_weight.dtype), grad_bias
