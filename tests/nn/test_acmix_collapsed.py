"""The convolution path as one dense convolution of the layer's input."""

from typing import Any

import pytest
import torch

from acmix import ACmix
from acmix.nn import acmix
from acmix.ops import collapsed
from layer_comparison import randn, scrambled


def collapse(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has layers run the form on this machine; a number for each time that they have."""
    runs: list[int] = []

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        runs.append(len(runs))
        return collapsed.collapsed_path(*arguments, **options)

    monkeypatch.setattr(acmix, "runs_collapsed", lambda *arguments: True)
    monkeypatch.setattr(acmix, "collapsed_path", counted)
    return runs


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(9, 7), (1, 1), (2, 5)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"dilation": 2}, {"bias": False}, {"kernel_conv": 5, "conv_bias": True}, {"rates": "1,1"}],
    ids=str,
)
def test_the_dense_form_is_the_path(
    options: dict[str, object],
    size: tuple[int, int],
    memory_format: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, x = scrambled(16, 16, impl="torch", **options), randn(2, 16, *size).to(memory_format=memory_format)
    with torch.no_grad():
        expected = layer(x)
        runs = collapse(monkeypatch)
        got = layer(x)
    assert runs == [0]
    assert got.stride() == expected.stride()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_the_bias_of_the_fc_counts_too() -> None:
    from acmix.functional import convolution_path

    x, rows, bias = randn(2, 5, 4, 3), randn(3, 6, 5, seed=1), randn(3, 6, seed=2)
    fc, shift, fc_bias = randn(9, 6, seed=3), randn(6, 9, 3, 3, seed=4), randn(9, seed=5)
    pieces = torch.einsum("dpc,bchw->bdphw", rows, x) + bias[..., None, None]
    expected = convolution_path(pieces, fc, shift, fc_bias, stride=2, impl="reference")
    weights = collapsed.PathWeights(rows, bias, fc, shift, fc_bias)
    torch.testing.assert_close(collapsed.collapsed_path(x, weights, 2, 1), expected, rtol=1e-12, atol=1e-12)


def test_half_precision_rounds_no_weights_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = scrambled(16, 16, impl="torch", dtype=torch.float32), randn(1, 16, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        exact = layer.double()(x.double())
        layer.bfloat16()
        plain = (layer(x.bfloat16()).double() - exact).abs().max()
        collapse(monkeypatch)
        assert (layer(x.bfloat16()).double() - exact).abs().max() <= plain + torch.finfo(torch.bfloat16).eps


def test_it_runs_on_cuda_without_gradients_where_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, kernels = torch.empty(2, 4, 12, 7, 7), torch.empty(16, 9, 3, 3)
    monkeypatch.setattr(collapsed, "wants_dense", lambda shape: shape.key == "float32-first-4x12to4-k3-s1-map8")
    with torch.no_grad():
        assert not collapsed.runs_collapsed(pieces, kernels, 1, "auto")

    class OnCuda:
        """A tensor of a card that is not here, as far as the question goes."""

        device, shape, dtype = torch.device("cuda"), pieces.shape, pieces.dtype
        stride = staticmethod(pieces.stride)

    there: Any = OnCuda()
    assert not collapsed.runs_collapsed(there, kernels, 1, "auto")
    with torch.no_grad():
        assert collapsed.runs_collapsed(there, kernels, 1, "auto")
        assert collapsed.runs_collapsed(there, kernels, 1, "triton")
        assert not collapsed.runs_collapsed(there, kernels, 1, "torch")
        assert not collapsed.runs_collapsed(there, kernels, 2, "auto")


def test_a_layer_is_not_collapsed_on_a_cpu() -> None:
    layer = ACmix(16, 16)
    with torch.no_grad():
        assert not collapsed.runs_collapsed(torch.empty(2, 4, 12, 7, 7), layer.shift.weight, 1, "auto")
