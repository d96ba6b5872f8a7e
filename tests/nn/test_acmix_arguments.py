"""Wrong arguments are named when the layer is made, not when it first runs."""

import inspect
import warnings
from typing import Any

import pytest
import torch

from acmix import ACmix
from layer_comparison import randn


@pytest.mark.parametrize("value", [2, 4, 6, 0, -3, 7.0, True, "7"], ids=lambda value: f"T07-{value!r}")
@pytest.mark.parametrize("name", ["kernel_att", "kernel_conv"])
def test_windows_and_kernels_are_odd_integers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r}, expected an odd integer"):
        ACmix(64, 64, **{name: value})


@pytest.mark.parametrize(
    ("out_channels", "num_heads"),
    [(66, 4), (30, 4), (64, 3), (18, 4), (10, 4), (2, 4)],
    ids=lambda number: f"T08-{number}",
)
def test_heads_must_divide_the_channels(out_channels: int, num_heads: int) -> None:
    with pytest.raises(ValueError, match=rf"out_channels={out_channels} .* num_heads={num_heads}"):
        ACmix(64, out_channels, num_heads=num_heads)


@pytest.mark.parametrize("name", ["in_channels", "out_channels", "num_heads", "stride", "dilation"])
@pytest.mark.parametrize("value", [0, -1, 1.5], ids=str)
def test_sizes_are_positive_integers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r}, expected an integer >= 1"):
        ACmix(**{"in_channels": 4, "out_channels": 4, "num_heads": 1, name: value})


def test_T09_an_even_channel_count_in_place_of_the_window_is_named() -> None:
    with pytest.raises(ValueError, match="kernel_att=1024"):
        ACmix(1024, 1024, 1024)


@pytest.mark.parametrize("channels", [(33, 99, 33), (99, 33, 33)], ids=lambda channels: f"T09-{channels}")
def test_an_odd_channel_count_in_place_of_the_window_warns(channels: tuple[int, int, int]) -> None:
    with pytest.warns(UserWarning, match="kernel_att=33 is a channel count"):
        ACmix(*channels, num_heads=3)


def test_T09_usual_and_wide_windows_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ACmix(7, 7, 7, 1)
        ACmix(64, 64, 35)


def test_T09_the_authors_positions_of_the_arguments() -> None:
    layer = ACmix(8, 16, 5, 2, 7, 3, 4)
    made = (layer.in_channels, layer.out_channels, layer.kernel_att, layer.num_heads, layer.kernel_conv)
    assert (*made, layer.stride, layer.dilation) == (8, 16, 5, 2, 7, 3, 4)
    assert layer(randn(1, 8, 9, 9, dtype=torch.float32)).shape == (1, 16, 3, 3)


def test_T09_what_stands_after_the_positions_is_keyword_only() -> None:
    kinds = [parameter.kind for parameter in inspect.signature(ACmix).parameters.values()]
    assert kinds[:7] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 7
    assert set(kinds[7:]) == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", ["kernel", "head", "padding", "groups"], ids=lambda name: f"T09-{name}")
def test_unknown_arguments_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        ACmix(8, 8, **{name: 1})


def test_paths_is_one_of_three_words() -> None:
    with pytest.raises(ValueError, match=r"paths='conv'.*'both', 'attention', 'convolution'"):
        ACmix(8, 8, paths="conv")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("impl", ["tourch", "cudnn", ""])
def test_an_unknown_backend_is_named_when_the_layer_is_made(impl: str) -> None:
    with pytest.raises(ValueError, match=f"impl='{impl}'"):
        ACmix(8, 8, impl=impl)


@pytest.mark.parametrize("step", [0, -0.1, float("nan"), float("inf"), "small"], ids=str)
def test_position_step_is_a_positive_number(step: Any) -> None:
    with pytest.raises(ValueError, match="position_step="):
        ACmix(8, 8, position_step=step)


@pytest.mark.parametrize("shape", [(8,), (9, 9), (1, 7, 9, 9), (7, 9, 9), (1, 8, 9, 9, 9)], ids=str)
def test_an_input_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ACmix: the input has shape .* expected \[B, 8, H, W\] or \[8, H, W\]"):
        ACmix(8, 8)(randn(*shape, dtype=torch.float32))


@pytest.mark.parametrize("shape", [(2, 8, 0, 5), (2, 8, 5, 0)], ids=str)
def test_an_empty_map_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ACmix: the input has shape"):
        ACmix(8, 8)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("like", "came"),
    [
        ({"dtype": torch.float64}, "torch.float64 on cpu"),
        ({"dtype": torch.float16}, "torch.float16 on cpu"),
        ({"device": "meta"}, "torch.float32 on meta"),
    ],
    ids=["float64", "float16", "meta"],
)
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_an_input_of_another_dtype_or_device_is_named(like: dict[str, Any], came: str, impl: str) -> None:
    told = f"ACmix: the input is {came} but the parameters are torch.float32 on cpu, expected one dtype and one device"
    for x in (torch.zeros(1, 8, 5, 5), torch.zeros(8, 5, 5)):
        with pytest.raises(TypeError, match=told):
            ACmix(8, 8, impl=impl)(x.to(**like))


def test_under_autocast_an_input_of_another_dtype_is_none_of_that() -> None:
    layer = ACmix(8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(1, 8, 5, 5)).dtype == torch.bfloat16


def test_repr_names_what_is_not_at_its_default() -> None:
    text = repr(ACmix(8, 16, 5, 2, stride=2, dilation=3, position_step=0.1, paths="attention", impl="torch"))
    for part in ("8, 16", "kernel_att=5", "num_heads=2", "stride=2", "dilation=3", "attention", "torch", "0.1"):
        assert part in text
