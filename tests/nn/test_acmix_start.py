"""What a new layer computes: half attention, half convolution with shift kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from acmix import ACmix
from acmix.functional import local_attention
from acmix.nn.shift import shift_kernels
from layer_comparison import randn


def _shifted_sum(maps: Tensor, kernel: int) -> Tensor:
    """Sum of maps [B, k * k, H, W], map (p, q) moved so that each pixel reads its neighbour at (p - r, q - r)."""
    reach = kernel // 2
    height, width = maps.shape[2:]
    padded = F.pad(maps, (reach, reach, reach, reach))
    offsets = [(p, q) for p in range(kernel) for q in range(kernel)]
    moved = [padded[:, i, p : p + height, q : q + width] for i, (p, q) in enumerate(offsets)]
    return torch.stack(moved).sum(0)


def _half_and_half(layer: ACmix, x: Tensor) -> Tensor:
    """0.5 * attention + 0.5 * shifted FC maps, from the layer's own projections, in plain torch."""
    heads, width = layer.num_heads, layer.head_width
    q, k, v = (child(x).unflatten(1, (heads, width)) for child in (layer.query, layer.key, layer.value))
    height, columns = x.shape[2:]
    axes = torch.linspace(-1, 1, height), torch.linspace(-1, 1, columns)
    y, across = torch.meshgrid(*axes, indexing="ij")
    code = layer.position(torch.stack([across, y])[None].to(x.dtype))[0]
    attention = local_attention(q, k, v, layer.kernel_att, position=code, impl="reference").flatten(1, 2)
    pieces = torch.cat([q, k, v], 1)  # [B, 3N, D, H, W]
    convolution = torch.zeros_like(attention)
    for channel in range(width):
        maps = F.conv2d(pieces[:, :, channel], layer.fc.weight)
        convolution[:, channel * heads : (channel + 1) * heads] = _shifted_sum(maps, layer.kernel_conv)[:, None]
    return 0.5 * attention + 0.5 * convolution


@pytest.mark.parametrize("kernel_conv", [1, 3, 5], ids=lambda kernel: f"T19-k{kernel}")
def test_a_new_layer_is_half_attention_and_half_shifted_maps(kernel_conv: int) -> None:
    torch.manual_seed(0)
    layer, x = ACmix(12, 16, kernel_conv=kernel_conv, dtype=torch.float64), randn(2, 12, 9, 7)
    torch.testing.assert_close(layer(x), _half_and_half(layer, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", [1, 3, 5], ids=lambda kernel: f"T19-k{kernel}")
def test_shift_kernels_are_one_hot_at_their_own_place(kernel: int) -> None:
    kernels = shift_kernels(kernel)
    assert kernels.shape == (kernel**2, kernel, kernel)
    for index in range(kernel**2):
        assert kernels[index].nonzero().tolist() == [[index // kernel, index % kernel]]
        assert kernels[index].sum() == 1


def test_T19_rates_start_at_one_half() -> None:
    layer = ACmix(8, 8)
    assert layer.alpha is not None
    assert layer.beta is not None
    assert layer.alpha.tolist() == layer.beta.tolist() == [0.5]


def test_T19_shifts_survive_a_network_that_initialises_its_convolutions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), ACmix(8, 8))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    assert torch.equal(network[1].shift.weight, shift_kernels(3).expand(8, 9, 3, 3))


def test_T19_shifts_survive_a_loop_over_all_convolution_classes_and_linear_layers() -> None:
    layer = ACmix(8, 8)
    for module in layer.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
    assert torch.equal(layer.shift.weight, shift_kernels(3).expand(8, 9, 3, 3))


def test_T19_reset_parameters_starts_again() -> None:
    layer, fresh = ACmix(8, 8, conv_bias=True), ACmix(8, 8, conv_bias=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7.0)
    for module in (layer, fresh):
        torch.manual_seed(0)
        module.reset_parameters()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
        assert not (value == 7.0).all(), name


def test_T19_apply_of_every_modules_own_reset_starts_again() -> None:
    layer = ACmix(8, 8)
    with torch.no_grad():
        layer.alpha.zero_()
        layer.shift.weight.zero_()
    layer.apply(lambda module: module.reset_parameters())
    assert layer.alpha.item() == 0.5
    assert torch.equal(layer.shift.weight, shift_kernels(3).expand(8, 9, 3, 3))


def test_T19_the_positions_bias_has_a_zero_gradient_and_says_so() -> None:
    layer = ACmix(8, 8, dtype=torch.float64)
    layer(randn(2, 8, 9, 7)).square().sum().backward()
    assert layer.position is not None
    assert layer.position.bias.grad.abs().max() < 1e-10
    assert "no effect" in ACmix.__doc__
