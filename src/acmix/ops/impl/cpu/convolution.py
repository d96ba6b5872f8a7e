"""The convolution path on the native kernels: FC and shifts composed to one group convolution, or one after the other.

Where the FC has a bias, the composed form gives it to one more piece, of ones: zero padding then cuts it at the border.
"""

import torch
from torch import Tensor

from acmix.ops.geometry import output_size
from acmix.ops.impl import torch as portable
from acmix.ops.impl.cpu.limits import bounded_stride, reaches_far
from acmix.ops.layout import compute_dtype, empty_pieces, empty_pieces_output, is_channels_last

__all__ = ["convolution_path", "convolution_path_backward", "pull_back_composed"]

Weights = tuple[Tensor, Tensor, Tensor | None]


def _widened(weights: Weights) -> Weights:
    """In the dtype that the kernels compute in: products of weights are not rounded on the way."""
    fc_weight, shift_weight, fc_bias = weights
    dtype = compute_dtype(fc_weight.dtype)
    return fc_weight.to(dtype), shift_weight.to(dtype), None if fc_bias is None else fc_bias.to(dtype)


def _with_bias(fc_weight: Tensor, fc_bias: Tensor | None) -> Tensor:
    """[k * k, P] and [k * k] -> [k * k, P + 1]: the FC of the pieces and the ones."""
    return fc_weight if fc_bias is None else torch.cat([fc_weight, fc_bias.unsqueeze(1)], 1)


def _compose(fc: Tensor, shift_weight: Tensor) -> Tensor:
    """[k * k, P] and [C, k * k, k, k] -> [C, P, k, k]."""
    taps = torch.matmul(fc.mT, shift_weight.flatten(2))
    composed: Tensor = taps.unflatten(2, shift_weight.shape[2:]).contiguous()
    return composed


def pull_back_composed(grad: Tensor, fc: Tensor, shift_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of what `_compose` was given from that of its result."""
    taps = grad.flatten(2)
    # Channel by channel: one long sum over all of them would round more.
    grad_fc = torch.bmm(shift_weight.flatten(2), taps.mT).sum(0)
    grad_shift: Tensor = torch.matmul(fc, taps).unflatten(2, shift_weight.shape[2:])
    return grad_fc, grad_shift


def _maps(pieces: Tensor, fc_weight: Tensor, fc_bias: Tensor | None) -> Tensor:
    """The FC: [B, D, P, H, W] -> [B, D, k * k, H, W], dense."""
    weight, flat = fc_weight.to(pieces.dtype), pieces.flatten(3)
    batch, groups, _, pixels = flat.shape
    if is_channels_last(pieces):
        # Image by image the product reads the pieces where they are; a batch of all images would be copied first.
        mixed = flat.new_empty((batch, groups, weight.shape[0], pixels))
        for image, maps_of in zip(flat, mixed, strict=True):
            torch.bmm(weight.expand(groups, -1, -1), image, out=maps_of)
    else:
        mixed = torch.matmul(weight, flat)
    if fc_bias is not None:
        mixed += fc_bias.to(pieces.dtype).unsqueeze(1)
    maps: Tensor = mixed.unflatten(3, pieces.shape[3:])
    return maps


def _pull_back_maps(grad: Tensor, pieces: Tensor, fc_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the pieces and of the FC's weight from that of `_maps`' result, which is dense."""
    weight = fc_weight.to(grad.dtype)
    if is_channels_last(pieces):
        last, of_pieces = (x.movedim((-2, -1), (1, 2)).contiguous() for x in (grad, pieces))
        # Row by row of the maps: one long sum over all of them would round more.
        grad_fc = torch.bmm(last.flatten(0, 1).flatten(1, 2).mT, of_pieces.flatten(0, 1).flatten(1, 2)).sum(0)
        return torch.matmul(last, weight).movedim((1, 2), (-2, -1)), grad_fc
    flat = grad.flatten(3)
    grad_fc = torch.matmul(flat, pieces.flatten(3).mT).sum((0, 1))
    return torch.matmul(weight.mT, flat).unflatten(3, pieces.shape[3:]), grad_fc


def convolution_path(pieces: Tensor, weights: Weights, stride: int, dilation: int, form: str) -> Tensor:
    """[B, D, P, H, W] -> [B, D * N, H', W'], channel d * N + n."""
    if reaches_far(pieces.shape, weights[1].shape[3], dilation):
        return portable.convolution_path(pieces, weights, stride, dilation, form)
    stride = bounded_stride(pieces.shape, stride)
    fc_weight, shift_weight, fc_bias = _widened(weights)
    channels, groups = shift_weight.shape[0], pieces.shape[1]
    if form == "composed":
        out = empty_pieces_output(pieces, channels, stride)
        rows = out.unflatten(1, (groups, -1))
        kernels, ones = _compose(_with_bias(fc_weight, fc_bias), shift_weight), fc_bias is not None
        torch.ops.acmix_cpu.convolution_forward(pieces, kernels, rows, stride, dilation, ones)
    else:
        maps = _maps(pieces, fc_weight, fc_bias)
        height, width = (output_size(size, stride) for size in pieces.shape[3:])
        out = pieces.new_empty((len(pieces), channels, height, width))  # dense, as the maps are
        rows = out.unflatten(1, (groups, -1))
        torch.ops.acmix_cpu.convolution_forward(maps, shift_weight.contiguous(), rows, stride, dilation, False)
    return out


def convolution_path_backward(
    grad: Tensor, pieces: Tensor, weights: Weights, stride: int, dilation: int, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of the pieces and of the three weights; what the forward pass did not keep is computed again."""
    if reaches_far(pieces.shape, weights[1].shape[3], dilation):
        return portable.convolution_path_backward(grad, pieces, weights, stride, dilation, form)
    stride = bounded_stride(pieces.shape, stride)
    fc_weight, shift_weight, fc_bias = _widened(weights)
    rows = grad.unflatten(1, (pieces.shape[1], -1))
    if form == "composed":
        fc = _with_bias(fc_weight, fc_bias)
        kernels, grad_pieces = _compose(fc, shift_weight), empty_pieces(pieces)
        grad_kernels = torch.empty_like(kernels)
        ones = fc_bias is not None
        torch.ops.acmix_cpu.convolution_backward(
            rows, pieces, kernels, grad_pieces, grad_kernels, stride, dilation, ones
        )
        grad_fc, grad_shift = pull_back_composed(grad_kernels, fc, shift_weight)
        grad_bias = grad_fc[:, -1] if ones else None
        grad_fc = grad_fc[:, : fc_weight.shape[1]]
    else:
        maps = _maps(pieces, fc_weight, fc_bias)
        grad_maps, grad_shift = torch.empty_like(maps), torch.empty_like(shift_weight.contiguous())
        torch.ops.acmix_cpu.convolution_backward(
            rows.contiguous(), maps, shift_weight.contiguous(), grad_maps, grad_shift, stride, dilation, False
        )
        grad_pieces, grad_fc = _pull_back_maps(grad_maps, pieces, fc_weight)
        grad_bias = None if fc_bias is None else grad_maps.sum((3, 4)).sum((0, 1))
    original, shift_dtype = weights[0].dtype, weights[1].dtype
    return (
        grad_pieces,
        grad_fc.to(original),
        grad_shift.to(shift_dtype),
        None if grad_bias is None else grad_bias.to(original),
    )
