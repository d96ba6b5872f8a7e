"""1x1 convolutions as products of matrices, where these are faster."""

import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.nn.two_paths import present
from acmix.ops.tracing import is_tracing

__all__ = ["pointwise"]

# Pixels from which on a matrix product is the faster 1x1 convolution on a CPU (scripts/compare_projections.py).
_LARGE_MAP = 1024


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution: [B, C_in, H, W] and [C, C_in, 1, 1] -> [B, C, H, W]."""
    if _as_product(x, bias):
        images = x.flatten(2)
        weights = weight.flatten(1).expand(len(x), -1, -1)
        product: Tensor = torch.baddbmm(present(bias).unsqueeze(1), weights, images).unflatten(2, x.shape[2:])
        return product
    return F.conv2d(x, weight, bias)


def _as_product(x: Tensor, bias: Tensor | None) -> bool:
    """Whether a matrix product is the faster 1x1 convolution; torch's own takes six times as long on large maps."""
    if bias is None or x.device.type != "cpu" or x.dtype != torch.float32 or is_tracing():
        return False
    return x.is_contiguous() and x.shape[2] * x.shape[3] >= _LARGE_MAP and len(x) > 0
