"""Batch norm by moments that were computed elsewhere: what stands in place of a forward pass of `nn.BatchNorm2d`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["batch_norm_affine"]

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
