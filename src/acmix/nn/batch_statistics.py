"""Batch norm as a scale and a shift: what stands in place of a forward pass of `nn.BatchNorm2d`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acmix.nn.process_statistics import over_processes, spans_processes
from acmix.ops.autocast import autocast
from acmix.ops.neighbourhood import neighbourhood_project
from acmix.ops.tracing import fixed

__all__ = ["batch_norm_affine", "project"]

Moments = Callable[[], tuple[Tensor, Tensor]]


def _momentum(norm: _BatchNorm) -> float | Tensor:
    """Weight of one more batch in the running statistics; counts it."""
    if norm.num_batches_tracked is None:
        return 0.0
    norm.num_batches_tracked.add_(1)
    return 1.0 / norm.num_batches_tracked if norm.momentum is None else norm.momentum


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """Running statistics after one more batch, as `nn.BatchNorm2d` keeps them."""
    momentum = _momentum(norm)
    if norm.running_mean is None or norm.running_var is None:
        return
    fewer = (count - 1).clamp(min=1) if isinstance(count, Tensor) else max(count - 1, 1)
    for running, batch in ((norm.running_mean, mean), (norm.running_var, var * (count / fewer))):
        running.add_((batch.to(running.dtype) - running) * momentum)


def _of_the_batch(norm: _BatchNorm, moments: Moments, count: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the batch, over all processes where the norm is one of them all."""
    together = spans_processes(norm)
    if fixed(count) == 0:
        if together:
            raise ValueError("SyncBatchNorm: the batch of one process is empty; give every process at least one image.")
        # Nothing to learn from: like `nn.BatchNorm2d`, count the batch and leave the statistics. Nothing is normed.
        _momentum(norm)
        kept = norm.weight if norm.running_mean is None else norm.running_mean
        zeros = torch.zeros(norm.num_features, device=None if kept is None else kept.device)
        return zeros, zeros + 1
    mean, var = moments()
    everywhere: int | Tensor = count
    if together:
        mean, var, everywhere = over_processes(mean, var, count, norm)
    if norm.training:
        _track(norm, mean, var, everywhere)
    return mean, var


def batch_norm_affine(norm: nn.Module, moments: Moments, count: int) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] that a batch norm applies to its input, and its running statistics brought up to date.

    In training, the statistics of an `nn.SyncBatchNorm` are those of all processes of its group, on any device; every
    process must have at least one image. An empty batch leaves running statistics as they are.

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
        mean, var = _of_the_batch(norm, moments, count)
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
