"""What a layer keeps for its backward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acmix import ACmix
from fast_backends import native
from layer_comparison import randn

MIB = 2**20


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of all distinct storages that autograd keeps for the backward pass, parameters and the input included."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = layer(x)
    # Alive until here, so that no storage's address is used twice.
    assert out.requires_grad
    return sum(storages.values())


def saved_by(height: int = 56, width: int = 56, batch: int = 1, **kwargs: Any) -> int:
    layer = ACmix(64, 64, **kwargs)
    return saved_bytes(layer, randn(batch, 64, height, width, dtype=torch.float32).requires_grad_())


def test_T14_saved_for_backward_at_the_first_stage() -> None:
    # 4.2 MiB is five maps of 64 x 56 x 56 and the weights; unfolded keys and values alone are 75.
    assert saved_by() < 4.2 * MIB


def test_T14_the_reference_shows_what_the_measure_sees() -> None:
    assert saved_by(impl="reference") > 75 * MIB


@pytest.mark.parametrize("kernel_att", [1, 3, 5, 9, 13, 21], ids=lambda kernel: f"T14-k{kernel}")
def test_saved_memory_does_not_depend_on_the_window(kernel_att: int) -> None:
    assert saved_by(kernel_att=kernel_att) == saved_by(kernel_att=7)


@pytest.mark.parametrize("dilation", [2, 3], ids=lambda dilation: f"T14-d{dilation}")
def test_saved_memory_does_not_depend_on_the_dilation(dilation: int) -> None:
    assert saved_by(dilation=dilation) == saved_by()


@pytest.mark.parametrize("size", [(112, 56), (56, 112), (112, 112)], ids=lambda size: f"T14-{size[0]}x{size[1]}")
def test_saved_memory_grows_with_the_number_of_pixels(size: tuple[int, int]) -> None:
    weights = sum(parameter.numel() for parameter in ACmix(64, 64).parameters()) * 4
    pixels = size[0] * size[1] / 56**2
    assert saved_by(*size) <= pixels * saved_by() + 4 * weights


def test_T14_saved_memory_grows_with_the_batch() -> None:
    assert saved_by(batch=3) <= 3 * saved_by()


@pytest.mark.parametrize("paths", ["attention", "convolution"], ids=lambda paths: f"T14-{paths}")
def test_one_path_keeps_no_more_than_both(paths: str) -> None:
    assert saved_by(paths=paths) <= saved_by()


def test_T14_without_gradients_nothing_is_kept() -> None:
    layer, x = ACmix(64, 64), randn(1, 64, 56, 56, dtype=torch.float32)
    kept = []
    with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        layer(x)
    assert kept == []


@native
def test_on_large_maps_it_keeps_no_more_than_the_convolution() -> None:
    x = torch.randn(8, 64, 56, 56, requires_grad=True)
    convolution = nn.Conv2d(64, 64, 3, padding=1)
    # The position's code and grid are there beside the input and the parameters.
    assert saved_bytes(ACmix(64, 64), x) < 1.05 * saved_bytes(convolution, x)


@native
@pytest.mark.parametrize(("channels", "maps"), [(64, 1), (256, 4)])
def test_what_the_native_layer_keeps_is_proportional_to_the_map(channels: int, maps: int) -> None:
    layer = ACmix(channels, channels, position=False)
    sizes = (14, 57, 150)
    kept = [saved_bytes(layer, torch.randn(1, channels, size, size, requires_grad=True)) for size in sizes]
    per_pixel = 4 * channels * maps
    assert len({of_size - per_pixel * size**2 for of_size, size in zip(kept, sizes, strict=True)}) == 1
