import pytest
import torch
from torch import nn

from acmix.analysis.complexity import Complexity, count_complexity, count_units
from acmix.nn import ACmix

C, N, K, SIDE = 32, 4, 7, 12


def acmix_macs() -> int:
    """By hand: three projections, the position code, the FC and the group convolution, logits and weighted sum."""
    per_pixel = 3 * C * C + 2 * (C // N) + (27 * C + 81 * C) + 2 * K * K * C
    return per_pixel * SIDE**2


def test_a_convolution_by_hand() -> None:
    assert count_complexity(nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10)) == Complexity(3 * 8 * 9 + 8, 100 * 3 * 8 * 9)


def test_an_acmix_layer_by_hand() -> None:
    layer = ACmix(C, C, kernel_att=K, num_heads=N)
    parameters = 3 * (C * C + C) + 3 * C // N + 27 * N + 81 * C + 2
    assert count_complexity(layer, (C, SIDE, SIDE)) == Complexity(parameters, acmix_macs())


def test_layers_add_up_to_the_network() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, C, 1), nn.BatchNorm2d(C), nn.Sequential(ACmix(C, C), nn.ReLU()), ACmix(C, C, 3)
    )
    units, total = count_units(network, (3, SIDE, SIDE)), count_complexity(network, (3, SIDE, SIDE))
    assert [unit.name for unit in units] == ["0", "1", "2.0", "3"]
    assert [unit.kind for unit in units] == ["Conv2d", "BatchNorm2d", "ACmix", "ACmix"]
    assert sum(unit.complexity.parameters for unit in units) == total.parameters
    assert sum(unit.complexity.macs for unit in units) == total.macs


def test_shapes_follow_the_stride() -> None:
    [unit] = count_units(ACmix(8, 16, stride=2), (8, 7, 9))
    assert (unit.input_shape, unit.output_shape) == ((1, 8, 7, 9), (1, 16, 4, 5))


def test_counting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.BatchNorm2d(8), ACmix(8, 8), nn.BatchNorm2d(8).eval())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_complexity(network, (8, 6, 6))
    assert [module.training for module in network] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_of_the_meta_device_can_be_counted() -> None:
    assert count_complexity(ACmix(8, 8, device="meta"), (8, 6, 6)) == count_complexity(ACmix(8, 8), (8, 6, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_does_not_change_the_count(dtype: torch.dtype) -> None:
    assert count_complexity(ACmix(8, 8).to(dtype), (8, 6, 6)) == count_complexity(ACmix(8, 8), (8, 6, 6))
