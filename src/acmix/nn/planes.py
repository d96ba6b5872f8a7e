"""Stage I of channels_last inputs on CUDA: q, k and v as planes, which the kernels there read pixel beside pixel.

In the order of both paths, channels of a head lie several pixels' channels apart in channels_last. As one product of
matrices stage I reads the input as it lies and writes planes, without a copy of either.
"""

import torch
from torch import Tensor

__all__ = ["as_planes", "in_format_of", "runs_on_planes"]


def runs_on_planes(x: Tensor, impl: str) -> bool:
    """Whether a layer with backend `impl` takes planes of its input [B, C_in, H, W].

    Args:
        x: the input.
        impl: the backend that the layer was given, or "auto".
    """
    if impl not in ("auto", "triton") or x.device.type != "cuda" or x.dtype == torch.float64:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def as_planes(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution: [B, C_in, H, W] and [C, C_in, 1, 1] -> [B, C, H, W], channel by channel in memory."""
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2).mT
    weights = weight.flatten(1)
    product = torch.mm(weights, pixels) if bias is None else torch.addmm(bias.unsqueeze(1), weights, pixels)
    planes: Tensor = product.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1)
    return planes


def in_format_of(x: Tensor, out: Tensor, impl: str) -> Tensor:
    """A layer's output in the memory format of its input, where it was computed on planes."""
    return out.contiguous(memory_format=torch.channels_last) if runs_on_planes(x, impl) else out
