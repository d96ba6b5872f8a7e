"""The convolution path of the portable backend: one composed group convolution, or FC and group convolution.

Both steps are linear, so their weights compose: `W[g, n, j, y, x] = sum_i shift[g, n, i, y, x] * fc[i, j]`, D groups
with P inputs and N outputs each. The composed form reads the pieces once; the two-step form writes k * k maps first but
needs less arithmetic where there are many pieces. Every function here is made of differentiable torch functions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["border_map", "constant_map", "convolution_path", "convolution_path_backward", "pull_back_border_map"]

Weights = tuple[Tensor, Tensor, Tensor | None]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _options(
    shift_weight: Tensor, groups: int, stride: int, dilation: int
) -> tuple[list[int], list[int], list[int], int]:
    padding = dilation * (shift_weight.shape[-1] - 1) // 2
    return [stride, stride], [padding, padding], [dilation, dilation], groups


def _conv(x: Tensor, weight: Tensor, groups: int, stride: int, dilation: int) -> Tensor:
    strides, padding, dilations, _ = _options(weight, groups, stride, dilation)
    return F.conv2d(x, weight.contiguous(), None, strides, padding, dilations, groups)


def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, groups: int, stride: int, dilation: int
) -> tuple[Tensor, Tensor]:
    strides, padding, dilations, _ = _options(weight, groups, stride, dilation)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight.contiguous(), None, strides, padding, dilations, False, [0, 0], groups, [True, True, False]
    )
    return grad_x, grad_weight


def _compose(fc_weight: Tensor, shift_weight: Tensor) -> Tensor:
    """[k * k, P] and [C, k * k, k, k] -> [C, P, k, k]."""
    # einsum leaves the taps apart. Such a kernel makes a channels_last output of contiguous pieces, and gives a wrong
    # gradient of itself where one image is channels_last (torch 2.15, CPU).
    return torch.einsum("ciyx,ij->cjyx", shift_weight, fc_weight).contiguous()


def border_map(fc_bias: Tensor, shift_weight: Tensor, pieces: Tensor, stride: int, dilation: int) -> Tensor:
    """What the FC's bias adds to the output: zero padding makes it depend on the distance to the border."""
    taps = torch.einsum("ciyx,i->cyx", shift_weight, fc_bias)
    return constant_map(taps, pieces.shape[3:], stride, dilation)


def constant_map(taps: Tensor, size: torch.Size, stride: int, dilation: int) -> Tensor:
    """Kernels [C, k, k] over a map of ones with zeros around it: [1, C, H', W']."""
    return _conv(taps.new_ones((1, 1, *size)), taps.unsqueeze(1), 1, stride, dilation)


def pull_back_border_map(
    grad: Tensor, fc_bias: Tensor, shift_weight: Tensor, pieces: Tensor, spacing: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of the kernels and of the FC's bias through `border_map`, whose stride and dilation are `spacing`."""
    taps = torch.einsum("ciyx,i->cyx", shift_weight, fc_bias).unsqueeze(1)
    ones = taps.new_ones((1, 1, *pieces.shape[3:]))
    _, grad_taps = _conv_backward(grad.sum(0, keepdim=True), ones, taps, 1, *spacing)
    grad_taps = grad_taps.squeeze(1)
    grad_shift = grad_taps.unsqueeze(1) * fc_bias[:, None, None]
    return grad_shift, torch.einsum("cyx,ciyx->i", grad_taps, shift_weight)


def convolution_path(pieces: Tensor, weights: Weights, stride: int, dilation: int, form: str) -> Tensor:
    """[B, D, P, H, W] -> [B, D * N, H', W'], channel d * N + n."""
    fc_weight, shift_weight, fc_bias = weights
    groups = pieces.shape[1]
    if form == "composed":
        out = _conv(pieces.flatten(1, 2), _compose(fc_weight, shift_weight), groups, stride, dilation)
        if fc_bias is not None:
            out = out + border_map(fc_bias, shift_weight, pieces, stride, dilation)
        return out
    return _conv(_maps(pieces, fc_weight, fc_bias).flatten(1, 2), shift_weight, groups, stride, dilation)


def _maps(pieces: Tensor, fc_weight: Tensor, fc_bias: Tensor | None) -> Tensor:
    """The FC: [B, D, P, H, W] -> [B, D, k * k, H, W]."""
    mixed = torch.matmul(fc_weight, pieces.flatten(3))
    if fc_bias is not None:
        mixed = mixed + fc_bias[:, None]
    maps: Tensor = mixed.unflatten(3, pieces.shape[3:])
    return maps


def convolution_path_backward(
    grad: Tensor, pieces: Tensor, weights: Weights, stride: int, dilation: int, form: str
) -> Gradients:
    """Gradients of the pieces and of the three weights; what the forward pass did not keep is computed again."""
    fc_weight, shift_weight, fc_bias = weights
    groups = pieces.shape[1]
    options = groups, stride, dilation
    if form == "composed":
        composed = _compose(fc_weight, shift_weight)
        grad_pieces, grad_composed = _conv_backward(grad, pieces.flatten(1, 2), composed, *options)
        # Channel by channel: one long sum over all of them would round more.
        grad_fc = torch.bmm(shift_weight.flatten(2), grad_composed.flatten(2).mT).sum(0)
        grad_shift = torch.einsum("cjyx,ij->ciyx", grad_composed, fc_weight)
        grad_pieces = grad_pieces.unflatten(1, (groups, -1))
        if fc_bias is None:
            return grad_pieces, grad_fc, grad_shift, None
        more_shift, grad_bias = pull_back_border_map(grad, fc_bias, shift_weight, pieces, (stride, dilation))
        return grad_pieces, grad_fc, grad_shift + more_shift, grad_bias
    maps = _maps(pieces, fc_weight, fc_bias)
    grad_maps, grad_shift = _conv_backward(grad, maps.flatten(1, 2), shift_weight, *options)
    grad_maps = grad_maps.unflatten(1, (groups, -1)).flatten(3)
    grad_pieces = torch.matmul(fc_weight.mT, grad_maps).unflatten(3, pieces.shape[3:])
    grad_fc = torch.einsum("bdip,bdjp->ij", grad_maps, pieces.flatten(3))
    return grad_pieces, grad_fc, grad_shift, None if fc_bias is None else grad_maps.sum((0, 1, 3))
