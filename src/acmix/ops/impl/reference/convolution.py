"""The convolution path as the paper writes it: light FC, then shift every map by its kernels' positions and sum."""

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.geometry import output_size

__all__ = ["convolution_path"]


def convolution_path(
    pieces: Tensor,
    fc_weight: Tensor,
    shift_weight: Tensor,
    fc_bias: Tensor | None,
    *,
    stride: int,
    dilation: int,
) -> Tensor:
    """FC over the P pieces, then a group convolution written out tap by tap (paper Eq. 14-17).

    Shapes as in `acmix.functional.convolution_path`. The gradient is torch's own.
    """
    groups, height, width = pieces.shape[1], pieces.shape[3], pieces.shape[4]
    kernel = shift_weight.shape[-1]
    maps = torch.einsum("ij,bgjhw->bgihw", fc_weight, pieces)
    if fc_bias is not None:
        maps = maps + fc_bias[:, None, None]
    reach = dilation * (kernel - 1) // 2
    maps = F.pad(maps, (reach, reach, reach, reach))
    weight = shift_weight.unflatten(0, (groups, -1))
    rows = (output_size(height, stride) - 1) * stride + 1
    columns = (output_size(width, stride) - 1) * stride + 1
    taps = []
    for y in range(kernel):
        for x in range(kernel):
            top, left = y * dilation, x * dilation
            shifted = maps[..., top : top + rows : stride, left : left + columns : stride]
            taps.append(torch.einsum("gni,bgihw->bgnhw", weight[..., y, x], shifted))
    return torch.stack(taps).sum(0).flatten(1, 2)
