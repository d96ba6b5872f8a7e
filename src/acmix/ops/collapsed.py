"""The convolution path with stage I as one dense convolution of the layer's input: no pieces, the most arithmetic.

Projections, FC and group convolution are all linear:
`W[d n, c, y, x] = sum_ij shift[d n, i, y, x] fc[i, j] projection[d, j, c]`.
What biases add depends on the distance to the border, for the path pads its pieces, biases in, with zeros.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.impl.torch.convolution import constant_map
from acmix.ops.impl.triton.convolution_forms import ShapeClass, wants_dense
from acmix.ops.layout import compute_dtype, is_channels_last
from acmix.ops.tracing import is_tracing

__all__ = ["PathWeights", "collapsed_path", "runs_collapsed"]


class PathWeights(NamedTuple):
    """What the convolution path has on the way from the layer's input.

    Attributes:
        projection: rows of stage I in the order of the pieces, [D, P, C_in].
        bias: their biases, [D, P], or None.
        fc_weight: [k * k, P].
        shift_weight: [C, k * k, k, k].
        fc_bias: [k * k] or None.
    """

    projection: Tensor
    bias: Tensor | None
    fc_weight: Tensor
    shift_weight: Tensor
    fc_bias: Tensor | None = None


def runs_collapsed(pieces: Tensor, shift_weight: Tensor, stride: int, impl: str) -> bool:
    """Whether the path of pieces [B, D, P, H, W] is to run as one dense convolution.

    On CUDA, where no gradient is wanted and where the table of measurements says that it is the fastest.
    """
    if impl not in ("auto", "triton") or pieces.device.type != "cuda" or torch.is_grad_enabled():
        return False
    if is_tracing():
        return False  # sizes may be symbols
    groups, count = pieces.shape[1:3]
    outputs, kernel, size = shift_weight.shape[0] // groups, shift_weight.shape[3], max(pieces.shape[3:])
    last = is_channels_last(pieces)
    return wants_dense(ShapeClass(pieces.dtype, last, groups, count, outputs, kernel, stride, size))


def collapsed_path(x: Tensor, weights: PathWeights, stride: int, dilation: int) -> Tensor:
    """[B, C_in, H, W] -> [B, C, ceil(H / s), ceil(W / s)], what `convolution_path` makes of the pieces of x."""
    projection, bias, fc_weight, shift_weight, fc_bias = (
        None if part is None else part.to(compute_dtype(x.dtype)) for part in weights
    )
    groups = weights.projection.shape[0]
    # Products of weights are not rounded on the way. [D, N, P, k, k].
    composed = torch.einsum("ciyx,ij->cjyx", shift_weight, fc_weight).unflatten(0, (groups, -1))
    dense = torch.einsum("dnjyx,djc->dncyx", composed, projection).flatten(0, 1)
    # einsum leaves the taps apart, and such a kernel makes a channels_last output of a contiguous input.
    dense = dense.to(x.dtype).contiguous()
    padding = dilation * (weights.shift_weight.shape[3] - 1) // 2
    out = F.conv2d(x, dense, None, stride, padding, dilation)
    if bias is None and fc_bias is None:
        return out
    taps = torch.zeros_like(composed[:, :, 0]).flatten(0, 1)
    if bias is not None:
        taps = taps + torch.einsum("dnjyx,dj->dnyx", composed, bias).flatten(0, 1)
    if fc_bias is not None:
        taps = taps + torch.einsum("ciyx,i->cyx", shift_weight, fc_bias)
    return out + constant_map(taps, x.shape[2:], stride, dilation).to(x.dtype)
