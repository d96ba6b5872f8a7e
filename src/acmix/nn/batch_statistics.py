"""Batch norm as a scale and a shift: what stands in place of a forward pass of `nn.BatchNorm2d`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix.ops.autocast import autocast
from acmix.ops.neighbourhood import neighbourhood_project

__all__ = ["batch_norm_affine", "project"]

Moments = Callable[[], tuple[Tensor, Tensor]]


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Running statistics after one more batch, as `nn.BatchNorm2d` keeps them."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = 1.0 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    unbiased = var * (count / max(count - 1, 1))
    for running, batch in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        running.add_((batch.to(running.dtype) - running) * momentum)


def batch_norm_affine(norm: nn.Module, moments: Moments, count: int) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] that a batch norm applies to its input, and its running statistics brought up to date.

    Statistics are those of this process alone: of an `nn.SyncBatchNorm` the parameters and running statistics are
    used, but nothing is gathered from other processes.

    Args:
        norm: an `nn.BatchNorm2d` or one of its kin, frozen ones included.
        moments: computes mean and biased variance [C] of the batch; called where the norm would compute them.
        count: over how many values of a channel.

    Returns:
        Two tensors [C], in float32 at least: the norm maps x to `scale * x + shift`.
    """
    # A frozen norm of timm or torchvision is none of torch's and has no batch statistics.
    kept: Any = norm
    mean, var = kept.running_mean, kept.running_var
    if isinstance(norm, _BatchNorm) and (norm.training or mean is None or var is None):
        mean, var = moments()
        if norm.training:
            _track(norm, mean, var, count)
    dtype = torch.promote_types(mean.dtype, torch.float32)
    scale = torch.rsqrt(var.to(dtype) + kept.eps)
    if kept.weight is not None:
        scale = scale * kept.weight.to(dtype)
    shift = -mean.to(dtype) * scale
    return scale, shift if kept.bias is None else shift + kept.bias.to(dtype)


def project(x: Tensor, norm: nn.Module | None, weight: Tensor, bias: Tensor, impl: str = "auto") -> Tensor:
    """1x1 convolution of x, or of `relu(norm(x))`, of which the backward pass then keeps x alone.

    Args:
        x: [B, C, H, W].
        norm: a batch norm, or None for none, and no ReLU. Kinds other than `nn.BatchNorm2d` run as they are, and so
            do float16 and bfloat16, whose statistics need a copy in float32.
        weight: [M, C, 1, 1].
        bias: [M].
        impl: backend of the op, see `acmix.functional.neighbourhood_aggregate`.

    Returns:
        [B, M, H, W].
    """
    if norm is None:
        return F.conv2d(x, weight, bias)
    if type(norm) is not nn.BatchNorm2d or autocast(x).dtype.itemsize < 4:
        return F.conv2d(norm(x).relu(), weight, bias)

    def moments() -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return mean, var

    scale, shift = batch_norm_affine(norm, moments, x.shape[0] * x.shape[2] * x.shape[3])
    out = neighbourhood_project(x, scale[:, None], shift[:, None], weight.flatten(2), 1, impl=impl)
    return out + bias[:, None, None]
