"""Every map size, stride, dilation, window and kernel, against the reference in float64: outputs and all gradients."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from acmix import ACmix
from layer_comparison import assert_same_results, randn, scrambled


@pytest.mark.parametrize("kernel_att", [3, 5, 7, 9], ids=lambda kernel: f"k{kernel}")
@pytest.mark.parametrize("height", range(1, 9), ids=lambda height: f"T04-h{height}")
def test_every_small_map(height: int, kernel_att: int) -> None:
    layer = scrambled(8, 8, kernel_att, 2)
    for width in range(1, 9):
        assert layer(randn(1, 8, height, width)).shape == (1, 8, height, width)
        assert_same_results(layer, randn(2, 8, height, width))


@pytest.mark.parametrize("size", [(3, 6), (6, 3), (4, 4), (2, 2), (1, 1)], ids=lambda size: f"T04-{size[0]}x{size[1]}")
def test_deepest_map_of_a_detector_at_small_images(size: tuple[int, int]) -> None:
    layer, x = ACmix(512, 512), randn(4, 512, *size, dtype=torch.float32)
    out = layer(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, ACmix.forward(_as_reference(layer), x), rtol=1e-4, atol=1e-4)


def _as_reference(layer: ACmix) -> ACmix:
    other = ACmix(layer.in_channels, layer.out_channels, impl="reference")
    other.load_state_dict(layer.state_dict())
    return other


@pytest.mark.parametrize(
    "size", [(14, 14), (15, 15), (14, 15), (7, 9), (1, 1)], ids=lambda size: f"T05-{size[0]}x{size[1]}"
)
@pytest.mark.parametrize("stride", [1, 2, 3, 4], ids=lambda stride: f"s{stride}")
def test_stride_rounds_up_as_a_convolution_does(stride: int, size: tuple[int, int]) -> None:
    layer, x = scrambled(8, 12, 7, 4, stride=stride), randn(2, 8, *size)
    convolution = nn.Conv2d(8, 12, 3, stride=stride, padding=1, dtype=torch.float64)
    assert layer(x).shape == convolution(x).shape == (2, 12, -(-size[0] // stride), -(-size[1] // stride))
    assert_same_results(layer, x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2, 3], ids=lambda dilation: f"T06-d{dilation}")
def test_dilation_keeps_the_size(dilation: int, stride: int) -> None:
    layer, x = scrambled(8, 8, num_heads=2, stride=stride, dilation=dilation), randn(1, 8, 28, 28)
    assert layer(x).shape == (1, 8, 28 // stride, 28 // stride)
    assert_same_results(layer, x)


def _reached(layer: ACmix, size: int, centre: int) -> set[tuple[int, int]]:
    """Input pixels on which the output at (centre, centre) depends."""
    x = randn(1, layer.in_channels, size, size).requires_grad_()
    layer(x)[0, :, centre, centre].sum().backward()
    assert x.grad is not None
    return {(int(row), int(column)) for row, column in x.grad[0].abs().amax(0).nonzero()}


def _taps(kernel: int, dilation: int, centre: int) -> set[tuple[int, int]]:
    axis = [centre + (i - kernel // 2) * dilation for i in range(kernel)]
    return {(row, column) for row in axis for column in axis}


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("dilation", [1, 2, 3], ids=lambda dilation: f"T06-d{dilation}")
def test_an_output_depends_on_the_dilated_taps_and_on_nothing_else(dilation: int, impl: str) -> None:
    options = {"kernel_att": 5, "num_heads": 2, "dilation": dilation, "impl": impl}
    for path, kernel in (("attention", 5), ("convolution", 3)):
        layer = scrambled(4, 4, paths=path, **options)
        assert _reached(layer, 28, 14) == _taps(kernel, dilation, 14), path


@pytest.mark.parametrize("dilation", [1, 2, 3], ids=lambda dilation: f"T06-d{dilation}")
def test_an_impulse_reaches_the_dilated_taps(dilation: int) -> None:
    layer = scrambled(4, 4, num_heads=2, dilation=dilation, paths="convolution", bias=False)
    impulse = torch.zeros(1, 4, 28, 28, dtype=torch.float64)
    impulse[:, :, 14, 14] = 1.0
    reached = layer(impulse)[0].abs().amax(0).nonzero().tolist()
    assert {tuple(pixel) for pixel in reached} == _taps(3, dilation, 14)


@pytest.mark.parametrize("kernel_att", [1, 3, 5, 7, 9, 13], ids=lambda kernel: f"T07-K{kernel}")
def test_every_odd_window(kernel_att: int) -> None:
    layer, x = scrambled(8, 8, kernel_att, 2), randn(1, 8, 11, 9)
    assert layer(x).shape == x.shape
    assert_same_results(layer, x)


@pytest.mark.parametrize("kernel_conv", [1, 3, 5, 7, 9], ids=lambda kernel: f"T07-k{kernel}")
@pytest.mark.parametrize("stride", [1, 2])
def test_every_odd_kernel(kernel_conv: int, stride: int) -> None:
    layer = scrambled(8, 8, 3, 2, kernel_conv, stride=stride, dilation=2)
    assert_same_results(layer, randn(1, 8, 11, 9))


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 6, 12], ids=lambda heads: f"T08-{heads}")
def test_every_divisor_is_a_number_of_heads(num_heads: int) -> None:
    assert_same_results(scrambled(8, 12, 3, num_heads), randn(2, 8, 7, 6))


@pytest.mark.parametrize("channels", [(1, 4), (3, 64), (5, 7)], ids=str)
def test_input_channels_are_free(channels: tuple[int, int]) -> None:
    heads = 7 if channels[1] == 7 else 4
    assert_same_results(scrambled(*channels, 7, heads), randn(2, channels[0], 9, 8))


class _Detector(nn.Module):
    """The skeleton of a detection backbone: five halvings, then an ACmix block on the deepest map."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 8, 16, 16, 32, 32]
        halvings = [nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths)]
        self.layers = nn.Sequential(*halvings, ACmix(32, 32), nn.BatchNorm2d(32), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def test_T21_stride_probe_of_a_detector() -> None:
    out = _Detector()(torch.zeros(1, 3, 256, 256))
    assert 256 // out.shape[-1] == 32


def test_T21_flop_probe_of_a_detector_at_one_pixel() -> None:
    with FlopCounterMode(display=False) as counter:
        out = _Detector().eval()(torch.empty(1, 3, 32, 32))
    assert out.shape == (1, 32, 1, 1)
    assert counter.get_total_flops() > 0
