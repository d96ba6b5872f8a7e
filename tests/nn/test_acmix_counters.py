"""Parameters and multiply-adds: the counters see the whole layer."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from acmix import ACmix
from layer_comparison import randn


@pytest.mark.parametrize(
    ("channels", "count"),
    [((16, 64), 8606), ((64, 64), 17822), ((256, 256), 218414)],
    ids=lambda value: f"T20-{value}",
)
def test_number_of_parameters(channels: tuple[int, int], count: int) -> None:
    layer = ACmix(*channels)
    assert sum(parameter.numel() for parameter in layer.parameters()) == count
    c_in, c = channels
    assert count == 3 * (c_in * c + c) + 3 * c // 4 + 27 * 4 + 81 * c + 2


def _macs(layer: ACmix, height: int, width: int) -> int:
    """Stage I, position code, window attention, FC and group convolution (paper Table 1), for one image."""
    pixels = height * width
    outputs = -(-height // layer.stride) * -(-width // layer.stride)
    c_in, c, maps = layer.in_channels, layer.out_channels, layer.kernel_conv**2
    projections = 3 * c_in * c * pixels
    position = 2 * layer.head_width * pixels
    attention = 2 * layer.kernel_att**2 * c * outputs
    convolution = 3 * maps * c * pixels + maps**2 * c * outputs
    return projections + position + attention + convolution


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"kernel_att": 3}, {"kernel_conv": 5}, {"num_heads": 16}, {"dilation": 2}],
    ids=lambda options: "T20-" + "-".join(map(str, options.values())),
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counted_flops_are_the_formulas(options: dict[str, Any], device: str) -> None:
    layer, x = ACmix(64, 64, device=device, **options), torch.zeros(2, 64, 15, 14, device=device)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    expected = 2 * 2 * _macs(layer, 15, 14) - 2 * 2 * layer.head_width * 15 * 14  # the code is shared by the batch
    assert counter.get_total_flops() == expected


def test_T20_attention_is_in_the_count() -> None:
    def flops(kernel_att: int) -> int:
        with FlopCounterMode(display=False) as counter:
            ACmix(64, 64, kernel_att)(torch.zeros(1, 64, 14, 14))
        return int(counter.get_total_flops())

    assert flops(7) - flops(5) == 2 * 2 * (49 - 25) * 64 * 14**2


def test_T20_the_backward_pass_is_counted() -> None:
    layer, x = ACmix(64, 64), randn(1, 64, 14, 14, dtype=torch.float32).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = layer(x)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert 2 * forward <= counter.get_total_flops() - forward <= 3 * forward
