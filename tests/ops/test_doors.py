"""What the public functions refuse, and how they say it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acmix import ACmix
from acmix.functional import convolution_path, local_attention, local_attention_weights

Q = torch.randn(2, 2, 4, 5, 6)
PIECES, FC, SHIFT = torch.randn(2, 4, 6, 5, 6), torch.randn(9, 6), torch.randn(8, 9, 3, 3)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"q": torch.randn(2, 4, 5, 6)}, ValueError, r"q has shape \(2, 4, 5, 6\), expected \[B, N, D, H, W\]"),
        ({"k": torch.randn(2, 2, 4, 5, 5)}, ValueError, r"q .* k \(2, 2, 4, 5, 5\).* differ"),
        ({"v": [1]}, TypeError, "v is a list, expected a tensor"),
        ({"q": Q.int(), "k": Q.int(), "v": Q.int()}, TypeError, "q is torch.int32, expected a floating-point dtype"),
        ({"q": Q.to(torch.float8_e5m2)}, TypeError, "q is torch.float8_e5m2, expected a .* dtype of 16, 32 or 64 bits"),
        ({"v": Q.double()}, TypeError, "q is torch.float32 on cpu but v is torch.float64 on cpu, expected one dtype"),
        ({"v": Q.to("meta")}, TypeError, ".* but v is torch.float32 on meta, expected one dtype and one device"),
        ({"position": torch.randn(4, 5, 5)}, ValueError, r"position has shape \(4, 5, 5\), expected \[D, H, W\] = \(4"),
        ({"kernel_size": 4}, ValueError, "kernel_size=4, expected an odd integer"),
        ({"stride": 0}, ValueError, "stride=0, expected an integer >= 1"),
        ({"dilation": 1.5}, ValueError, "dilation=1.5, expected an integer >= 1"),
        ({"scale": "x"}, ValueError, "scale='x', expected a finite number"),
        ({"scale": float("nan")}, ValueError, "scale=nan, expected a finite number"),
        ({"impl": None}, ValueError, "impl=None is no backend, expected one of"),
        ({"impl": "Torch"}, ValueError, "impl='Torch' is no backend.*did you mean 'torch'"),
    ],
)
def test_local_attention_names_the_mistake(change: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=f"local_attention: {told}"):
        local_attention(**{"q": Q, "k": Q, "v": Q, "kernel_size": 3, **change})


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"pieces": PIECES[0]}, ValueError, r"pieces has shape \(4, 6, 5, 6\), expected \[B, D, P, H, W\]"),
        ({"fc_weight": FC[:8]}, ValueError, r"fc_weight has shape \(8, 6\), expected \[k \* k, P\] = \(9, 6\)"),
        ({"shift_weight": SHIFT[:6]}, ValueError, "C a multiple of D = 4"),
        ({"shift_weight": SHIFT[:, :, :2, :2]}, ValueError, "kernel side of shift_weight=2, expected an odd"),
        ({"fc_bias": torch.ones(4)}, ValueError, r"fc_bias has shape \(4,\), expected \[k \* k\] = \(9,\)"),
        ({"form": "dense"}, ValueError, "form='dense', expected one of"),
        ({"form": "composed", "impl": "reference"}, ValueError, "form='composed' with impl='reference'"),
        ({"fc_weight": FC.half()}, TypeError, "fc_weight is torch.float16"),
    ],
)
def test_convolution_path_names_the_mistake(change: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=f"convolution_path: .*{told}"):
        convolution_path(**{"pieces": PIECES, "fc_weight": FC, "shift_weight": SHIFT, **change})


@pytest.mark.parametrize("pixel", [(5, 0), (0, 6), (-1, 0)])
def test_attention_weights_of_a_pixel_outside(pixel: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="local_attention_weights: "):
        local_attention_weights(Q, Q, [pixel], 3)


def test_attention_weights_of_no_pixel_are_empty() -> None:
    assert local_attention_weights(Q, Q, [], 3).shape == (2, 2, 0, 5, 6)


def test_widths_may_come_from_numpy() -> None:
    widths = np.array([8, 16, 7, 4, 3, 2, 1])
    layer = ACmix(*widths)
    assert layer(torch.randn(1, 8, 5, 5)).shape == (1, 16, 3, 3)
    assert {type(value) for value in (layer.kernel_att, layer.num_heads, layer.stride, layer.out_channels)} == {int}


def test_a_number_from_numpy_is_a_scale() -> None:
    scaled: Tensor = local_attention(Q, Q, Q, 3, scale=np.float64(0.5))
    assert torch.equal(scaled, local_attention(Q, Q, Q, 3, scale=0.5))
