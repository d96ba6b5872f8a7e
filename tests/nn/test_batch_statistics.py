"""Batch norms whose input is never made: empty batches, and statistics over several processes."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from acmix import create_model
from acmix.nn import PairwiseAttention, PatchwiseACmix, PatchwiseAttention
from layer_comparison import randn
from network_suite import awake

SCRIPT = Path(__file__).with_name("synchronised_norms.py")

LAYERS = {"patchwise": PatchwiseAttention, "pairwise": PairwiseAttention, "acmix": PatchwiseACmix}


def buffers(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


@pytest.mark.parametrize("momentum", [0.1, None], ids=["moving", "cumulative"])
@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_batch_leaves_the_statistics_as_torchs_norm_does(name: str, momentum: float | None) -> None:
    layer, norm = awake(LAYERS[name](6, 16, 3)), awake(nn.BatchNorm2d(6))
    for module in (norm, *layer.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    plain = copy.deepcopy(norm)
    before = buffers(layer)
    layer(torch.zeros(0, 6, 5, 4), norm)
    plain(torch.zeros(0, 6, 5, 4))
    torch.testing.assert_close(buffers(norm), buffers(plain))
    for key, value in buffers(layer).items():
        counted = key.endswith("num_batches_tracked")
        assert torch.equal(value, before[key] + 1 if counted else before[key]), key


@pytest.mark.parametrize("name", ["san10", "san10_pairwise", "acmix_san10"])
def test_gradients_of_an_empty_batch_are_zero(name: str) -> None:
    network = create_model(name, layers=(1, 1), channels=(32, 64), kernels=(3, 5), num_classes=7)
    network(torch.zeros(0, 3, 16, 16)).sum().backward()
    assert [key for key, x in network.named_parameters() if x.grad is None or x.grad.any()] == []
    assert [key for key, value in network.named_buffers() if not value.isfinite().all()] == []


def test_a_converted_layer_of_one_process_is_the_layer() -> None:
    layer, x = awake(PairwiseAttention(6, 16, 3, dtype=torch.float64)), randn(3, 6, 5, 4)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))
    assert type(converted.weights.norm1) is nn.SyncBatchNorm
    torch.testing.assert_close(converted(x), layer(x))
    torch.testing.assert_close(buffers(converted), buffers(layer))


def test_statistics_are_those_of_all_processes(tmp_path: Path) -> None:
    """Each of two processes compares its part of four images with a layer that sees all of them."""
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), tmp_path], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for process in processes:
        _, wrong = process.communicate(timeout=240)
        assert process.returncode == 0, wrong
