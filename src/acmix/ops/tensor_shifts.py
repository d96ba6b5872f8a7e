"""Shift and sum with tensor shifts, one pass over memory for each (paper Eq. 7 and 8, Fig. 3 a)."""

from torch import Tensor

from acmix.ops.checks import check_positive, check_tensors
from acmix.ops.decompositions import shift

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
    kernel = round(maps.shape[2] ** 0.5) if maps.dim() == 5 else 0
    if kernel % 2 == 0 or kernel**2 != maps.shape[2]:
        raise ValueError(f"{_OP}: maps has shape {tuple(maps.shape)}, expected [B, D, k * k, H, W] with odd k.")
    out = maps.new_zeros(())
    for index, single in enumerate(maps.unbind(2)):
        dy, dx = index // kernel - kernel // 2, index % kernel - kernel // 2
        out = out + shift(single, dy * dilation, dx * dilation)[:, :, ::stride, ::stride]
    return out
