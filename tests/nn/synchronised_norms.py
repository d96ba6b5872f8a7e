"""Two processes train a layer with synchronised norms on three images and on one: as one process does on all four.

python synchronised_norms.py RANK FOLDER
"""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from acmix.nn import PairwiseAttention

IMAGES = (slice(0, 3), slice(3, 4))


def step(layer: nn.Module, x: Tensor, target: Tensor) -> list[Tensor]:
    """Outputs, gradient of the images, gradients of the parameters."""
    x = x.clone().requires_grad_()
    out = layer(x)
    ((out - target) ** 2).sum().backward()
    return [out.detach(), x.grad, *(parameter.grad for parameter in layer.parameters())]


def process(rank: int, folder: Path) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(4, 6, 5, 4, dtype=torch.float64), torch.randn(4, 16, 5, 4, dtype=torch.float64)
    layer = PairwiseAttention(6, 16, 3, dtype=torch.float64)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    mine = IMAGES[rank]
    out, grad, *gradients = step(synchronised, x[mine], target[mine])
    for parameter in gradients:
        dist.all_reduce(parameter)
    expected_out, expected_grad, *expected = step(layer, x, target)
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close([out, grad], [expected_out[mine], expected_grad[mine]], **close)
    torch.testing.assert_close(gradients, expected, **close)
    torch.testing.assert_close(dict(synchronised.named_buffers()), dict(layer.named_buffers()), **close)
    with pytest.raises(ValueError, match="give every process at least one image"):
        synchronised(x[:0])
    dist.destroy_process_group()


if __name__ == "__main__":
    process(int(sys.argv[1]), Path(sys.argv[2]))
