"""The two paths alone, side by side, and where the attention looks."""

import pytest
import torch

from acmix import ACmix
from layer_comparison import assert_same_results, randn, scrambled, twin


@pytest.mark.parametrize("paths", ["attention", "convolution"])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_path_equals_the_reference(paths: str, stride: int) -> None:
    assert_same_results(scrambled(8, 8, num_heads=2, paths=paths, stride=stride), randn(2, 8, 9, 7))


@pytest.mark.parametrize(
    ("paths", "dropped"), [("attention", {"beta", "fc", "shift"}), ("convolution", {"alpha", "position"})]
)
def test_a_dropped_path_leaves_no_parameters(paths: str, dropped: set[str]) -> None:
    layer = ACmix(8, 8, paths=paths)  # type: ignore[arg-type]  # one of the three words
    assert {name.split(".")[0] for name in layer.state_dict()} & dropped == set()
    assert getattr(layer, "beta" if paths == "attention" else "alpha") is None


def test_two_paths_sum_to_the_output() -> None:
    layer, x = scrambled(8, 8, stride=2), randn(2, 8, 9, 7)
    attention, convolution = layer.forward_paths(x)
    torch.testing.assert_close(attention + convolution, layer(x), rtol=1e-12, atol=1e-12)


def test_each_rate_scales_its_own_path() -> None:
    layer, x = scrambled(8, 8), randn(2, 8, 9, 7)
    before = layer.forward_paths(x)
    with torch.no_grad():
        layer.alpha.mul_(3)
    after = layer.forward_paths(x)
    torch.testing.assert_close(after.attention, 3 * before.attention, rtol=1e-12, atol=1e-12)
    assert torch.equal(after.convolution, before.convolution)


def test_the_parts_are_the_layers_of_one_path() -> None:
    layer, x = scrambled(8, 8), randn(2, 8, 9, 7)
    parts = layer.forward_paths(x)
    for paths, expected in (("attention", parts.attention), ("convolution", parts.convolution)):
        alone = ACmix(8, 8, paths=paths, dtype=torch.float64)
        alone.load_state_dict({name: value for name, value in layer.state_dict().items() if name in alone.state_dict()})
        torch.testing.assert_close(alone(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("paths", ["attention", "convolution"])
def test_a_dropped_path_contributes_none(paths: str) -> None:
    parts = scrambled(8, 8, paths=paths).forward_paths(randn(1, 8, 5, 5))
    assert (parts.attention is None, parts.convolution is None) == (paths == "convolution", paths == "attention")


@pytest.mark.parametrize("shape", [(8, 9, 7), (2, 8, 9, 7)], ids=["unbatched", "batched"])
def test_parts_take_what_forward_takes(shape: tuple[int, ...]) -> None:
    layer, x = scrambled(8, 8), randn(*shape)
    attention, convolution = layer.forward_paths(x)
    assert attention.shape == convolution.shape == layer(x).shape


@pytest.mark.parametrize("position", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_maps_weigh_the_values_into_the_output(stride: int, position: bool) -> None:
    layer = scrambled(8, 8, num_heads=2, stride=stride, paths="attention", position=position)
    x, pixels = randn(2, 8, 9, 7), [(0, 0), (2, 3), (4, 3)]
    maps = layer.attention_maps(x, pixels)
    assert maps.shape == (2, 2, 3, 9, 7)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 2, 3, dtype=torch.float64))
    values = layer.value(x).unflatten(1, (2, 4))
    weighed = layer.alpha * torch.einsum("bnphw,bndhw->bndp", maps, values).flatten(1, 2)
    out = twin(layer)(x)
    for index, (row, column) in enumerate(pixels):
        torch.testing.assert_close(weighed[..., index], out[:, :, row, column], rtol=1e-11, atol=1e-11)


def test_attention_maps_of_no_pixels_are_empty() -> None:
    assert scrambled(8, 8).attention_maps(randn(1, 8, 5, 5), []).shape == (1, 4, 0, 5, 5)


def test_attention_maps_need_the_attention_path() -> None:
    with pytest.raises(ValueError, match="paths='convolution'"):
        ACmix(8, 8, paths="convolution").attention_maps(randn(1, 8, 5, 5, dtype=torch.float32), [(0, 0)])


@pytest.mark.parametrize("pixel", [(5, 0), (0, 5), (-1, 0)], ids=str)
def test_attention_maps_name_a_pixel_outside(pixel: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="lies outside of the output map"):
        scrambled(8, 8).attention_maps(randn(1, 8, 5, 5), [pixel])
