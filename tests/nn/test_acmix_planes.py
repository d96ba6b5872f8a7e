"""Stage I of channels_last inputs on planes, as on CUDA."""

from typing import Any

import pytest
import torch

from acmix.nn import acmix, planes
from layer_comparison import randn, results, scrambled, worst_difference


@pytest.fixture
def on_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has layers do it on this machine."""

    def wanted(x: torch.Tensor, impl: str) -> bool:
        return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()

    monkeypatch.setattr(planes, "runs_on_planes", wanted)
    monkeypatch.setattr(acmix, "runs_on_planes", wanted)


@pytest.mark.usefixtures("on_planes")
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"bias": False}, {"dilation": 2}], ids=str)
@pytest.mark.parametrize("size", [(9, 7), (1, 5), (2, 2)], ids=str)
def test_planes_compute_what_the_convolution_does(size: tuple[int, int], options: dict[str, object]) -> None:
    layer, x = scrambled(8, 16, impl="torch", **options), randn(3, 8, *size)
    last = x.to(memory_format=torch.channels_last)
    difference, name = worst_difference(results(layer, last), results(layer, x))
    assert difference <= 1e-12, name
    out = layer(last)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_copied_on_the_way() -> None:
    x, weight = randn(3, 8, 5, 4).to(memory_format=torch.channels_last), randn(6, 8, 1, 1, seed=1)
    projected = planes.as_planes(x, weight, randn(6, seed=2))
    assert projected.shape == (3, 6, 5, 4)
    assert projected.stride() == (20, 60, 4, 1)
    assert x.permute(0, 2, 3, 1).flatten(0, 2).mT.data_ptr() == x.data_ptr()


def test_it_is_for_cuda_and_channels_last_alone() -> None:
    class OnCuda:
        """A tensor of a card that is not here, as far as the question goes."""

        def __init__(self, x: torch.Tensor) -> None:
            self.device, self.dtype, self.is_contiguous = torch.device("cuda"), x.dtype, x.is_contiguous

    on_cuda: Any = OnCuda
    x = torch.empty(2, 8, 3, 4)
    last = x.to(memory_format=torch.channels_last)
    assert planes.runs_on_planes(on_cuda(last), "auto")
    assert planes.runs_on_planes(on_cuda(last), "triton")
    assert not planes.runs_on_planes(on_cuda(last), "torch")
    assert not planes.runs_on_planes(on_cuda(x), "auto")
    assert not planes.runs_on_planes(on_cuda(last.double()), "auto")
    assert not planes.runs_on_planes(last, "auto")
