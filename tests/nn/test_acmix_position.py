"""The position code: the authors' grid over the whole map, or a fixed distance between pixels."""

import pytest
import torch
from torch import Tensor

from acmix import ACmix
from acmix.nn.position import coordinate_grid
from layer_comparison import assert_same_results, randn, scrambled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_authors_grid_is_linspace_to_the_last_bit(dtype: torch.dtype) -> None:
    like = torch.zeros((), dtype=dtype)
    for size in range(1, 260):
        grid = coordinate_grid(size, 3, None, like)
        assert grid.shape == (2, size, 3)
        assert torch.equal(grid[1, :, 0], torch.linspace(-1, 1, size).to(dtype)), size
        assert torch.equal(grid[0, 0], torch.tensor([-1, 0, 1], dtype=dtype))


def test_fixed_steps_do_not_depend_on_the_size() -> None:
    small, large = (coordinate_grid(size, size, 0.25, torch.zeros(())) for size in (4, 9))
    assert torch.equal(small, large[:, :4, :4])
    assert small[0, 0].tolist() == [0.0, 0.25, 0.5, 0.75]


def _on_the_crop(layer: ACmix, whole: Tensor, top: int, left: int, size: int) -> tuple[Tensor, Tensor]:
    """Interior of a crop's output, and the same pixels of the whole map's output."""
    crop = layer(whole[:, :, top : top + size, left : left + size])
    reach = layer.dilation * max(layer.kernel_att, layer.kernel_conv) // 2
    inside = slice(reach, size - reach)
    there = layer(whole)[:, :, top : top + size, left : left + size]
    return crop[:, :, inside, inside], there[:, :, inside, inside]


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("dilation", [1, 2], ids=lambda dilation: f"T22-d{dilation}")
def test_with_a_fixed_step_a_crop_sees_what_the_whole_map_sees(dilation: int, impl: str) -> None:
    layer = scrambled(8, 8, 5, 2, position_step=0.1, dilation=dilation, impl=impl)
    crop, whole = _on_the_crop(layer, randn(1, 8, 26, 30), 5, 7, 17)
    assert crop.numel() > 0
    torch.testing.assert_close(crop, whole, rtol=1e-9, atol=1e-9)


def test_T22_with_the_authors_grid_it_does_not() -> None:
    crop, whole = _on_the_crop(scrambled(8, 8, 5, 2), randn(1, 8, 26, 30), 5, 7, 17)
    assert (crop - whole).abs().max() > 1e-3


def test_T22_both_modes_are_documented() -> None:
    assert "position_step: None for the authors' grid" in str(ACmix.__doc__)


def test_T22_a_fixed_step_equals_the_authors_grid_at_the_size_that_it_was_taken_from() -> None:
    authors, x = scrambled(8, 8, 5, 2), randn(2, 8, 9, 9)
    fixed = scrambled(8, 8, 5, 2, position_step=2 / 8)
    torch.testing.assert_close(fixed(x), authors(x), rtol=1e-6, atol=1e-6)


def test_without_a_position_the_layer_has_no_position_parameters() -> None:
    layer = scrambled(8, 8, 5, 2, position=False)
    assert layer.position is None
    assert not any(name.startswith("position") for name in layer.state_dict())
    crop, whole = _on_the_crop(layer, randn(1, 8, 26, 30), 5, 7, 17)
    torch.testing.assert_close(crop, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(7, 9), (1, 5), (2, 1)], ids=str)
@pytest.mark.parametrize("step", [None, 0.05])
def test_every_mode_equals_the_reference(size: tuple[int, int], step: float | None) -> None:
    assert_same_results(scrambled(8, 8, 5, 2, position_step=step), randn(2, 8, *size))
