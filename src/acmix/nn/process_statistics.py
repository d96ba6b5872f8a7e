"""Batch statistics over several processes, from those of each."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["over_processes", "spans_processes"]


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(grad.contiguous(), ctx.group), None


def spans_processes(norm: nn.Module) -> bool:
    """Whether a norm wants the statistics of several processes: an `nn.SyncBatchNorm` in training."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training:
        return False
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(norm.process_group) > 1


def over_processes(mean: Tensor, var: Tensor, count: int, norm: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the batches of all processes together; all of them have to call this.

    Args:
        mean: mean [C] of this process's batch.
        var: its biased variance [C].
        count: values of a channel in this process's batch, at least 1; they may differ between processes.
        norm: an `nn.SyncBatchNorm`, which knows the group of processes.

    Returns:
        Mean, biased variance and number of values [1] over the group.
    """
    dtype, group = torch.promote_types(mean.dtype, torch.float32), norm.process_group
    mean, var, here = mean.to(dtype), var.to(dtype), mean.new_tensor([count], dtype=dtype)
    sums: Tensor = _Sum.apply(torch.cat([mean * here, here]), group)
    everywhere = sums[-1:].detach()
    of_all = sums[:-1] / everywhere
    # Around the common mean, so that no large squares cancel.
    spread: Tensor = _Sum.apply((var + (mean - of_all).square()) * here, group)
    return of_all, spread / everywhere, everywhere
