"""Shift and sum by slices, against the group convolution with one-hot kernels that it stands for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.functional import shift_and_sum
from acmix.nn.shift import shift_kernels
from layer_comparison import randn


def by_convolution(maps: Tensor, stride: int, dilation: int) -> Tensor:
    groups, kernel = maps.shape[1], round(maps.shape[2] ** 0.5)
    weight = shift_kernels(kernel, dtype=maps.dtype).repeat(groups, 1, 1, 1)
    padding = dilation * (kernel // 2)
    return F.conv2d(maps.flatten(1, 2), weight, None, stride, padding, dilation, groups)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_it_is_the_group_convolution_with_one_hot_kernels(
    size: tuple[int, int], stride: int, dilation: int, kernel: int
) -> None:
    maps = randn(2, 3, kernel**2, *size)
    found = shift_and_sum(maps, stride=stride, dilation=dilation)
    assert found.shape[2:] == tuple(-(-side // stride) for side in size)
    torch.testing.assert_close(found, by_convolution(maps, stride, dilation), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_gradients_are_the_derivatives(stride: int, dilation: int) -> None:
    maps = randn(1, 2, 9, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: shift_and_sum(x, stride=stride, dilation=dilation), maps)


def test_map_i_is_moved_to_kernel_position_i() -> None:
    maps = torch.zeros(1, 1, 9, 5, 5)
    maps[0, 0, 5, 2, 2] = 1  # row 1, column 2: what stands one column to the right
    assert shift_and_sum(maps)[0, 0].nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    assert shift_and_sum(randn(1, 2, 9, 4, 4).to(dtype)).dtype == dtype


def test_an_empty_batch() -> None:
    assert shift_and_sum(randn(0, 2, 9, 5, 4), stride=2).shape == (0, 2, 3, 2)


@pytest.mark.parametrize("shape", [(2, 9, 4, 4), (1, 2, 4, 5, 5), (1, 2, 8, 5, 5), (1, 2, 0, 5, 5)], ids=str)
def test_shapes_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shift_and_sum: maps has shape .*, expected \[B, D, k \* k, H, W\]"):
        shift_and_sum(torch.zeros(shape))


@pytest.mark.parametrize("option", ["stride", "dilation"])
def test_bad_options_are_named(option: str) -> None:
    options: Any = {option: 0}
    with pytest.raises(ValueError, match=f"shift_and_sum: {option}=0, expected an integer >= 1"):
        shift_and_sum(randn(1, 2, 9, 4, 4), **options)


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"maps is torch\.int64, expected a floating-point dtype"):
        shift_and_sum(torch.zeros(1, 2, 9, 4, 4, dtype=torch.int64))
