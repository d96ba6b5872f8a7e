"""Shift and sum with tensor shifts, one pass over memory for each (paper Eq. 7 and 8, Fig. 3 a)."""

import torch.nn.functional as F
from torch import Tensor

from acmix.ops.checks import check_positive, check_tensors
from acmix.ops.tracing import fixed

__all__ = ["shift_and_sum"]

_OP = "shift_and_sum"


def shift_and_sum(maps: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """Shift the k * k maps of every channel to their kernel positions, zeros coming in, and add them up.

    What a group convolution with one-hot kernels computes, as slices and sums: the variant whose slowness led the
    authors to the convolution.

    Args:
        maps: [B, D, k * k, H, W], map i for the kernel position (i // k, i % k), k odd.
        stride: distance between outputs in pixels, s.
        dilation: distance between kernel positions in pixels, d.

    Returns:
        [B, D, ceil(H / s), ceil(W / s)].

    Raises:
        ValueError: a shape or an option is wrong.
        TypeError: `maps` is no floating-point tensor.
    """
    check_tensors(_OP, {"maps": maps})
    check_positive(_OP, stride=stride, dilation=dilation)
    kernel = round(fixed(maps.shape[2]) ** 0.5) if maps.dim() == 5 else 0
    if kernel % 2 == 0 or kernel**2 != fixed(maps.shape[2]):
        raise ValueError(f"{_OP}: maps has shape {tuple(maps.shape)}, expected [B, D, k * k, H, W] with odd k.")
    reach, (height, width) = kernel // 2 * dilation, maps.shape[3:]
    padded = F.pad(maps, (reach, reach, reach, reach))
    out = maps.new_zeros(())
    for index in range(kernel**2):
        top, left = index // kernel * dilation, index % kernel * dilation
        out = out + padded[:, :, index, top : top + height : stride, left : left + width : stride]
    return out
