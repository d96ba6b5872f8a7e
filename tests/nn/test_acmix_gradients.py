"""First and second derivatives against finite differences, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from acmix import ACmix
from layer_comparison import randn, scrambled

CASES: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("stride-1", {}, (3, 4)),
    ("stride-2", {"stride": 2}, (3, 4)),
    ("stride-3", {"stride": 3}, (4, 2)),
    ("dilation-2", {"dilation": 2}, (5, 3)),
    ("map-2x2", {"kernel_att": 7}, (2, 2)),
    ("map-1x1", {"kernel_att": 5}, (1, 1)),
    ("map-1x3", {"kernel_att": 5}, (1, 3)),
    ("no-position", {"position": False}, (3, 2)),
    ("conv-bias", {"conv_bias": True}, (2, 3)),
    ("attention-only", {"paths": "attention"}, (3, 2)),
    ("convolution-only", {"paths": "convolution"}, (3, 2)),
]


def _problem(options: dict[str, Any], size: tuple[int, int]) -> tuple[ACmix, tuple[Tensor, ...]]:
    layer = scrambled(2, 2, **{"kernel_att": 3, "num_heads": 1, **options})
    x = randn(1, 2, *size).requires_grad_()
    return layer, (x, *(parameter.detach().requires_grad_() for parameter in layer.parameters()))


def _call(layer: ACmix) -> Any:
    names = [name for name, _ in layer.named_parameters()]
    return lambda x, *values: functional_call(layer, dict(zip(names, values, strict=True)), (x,))


@pytest.mark.parametrize(("options", "size"), [case[1:] for case in CASES], ids=[f"T16-{case[0]}" for case in CASES])
def test_gradients_of_input_and_parameters(options: dict[str, Any], size: tuple[int, int]) -> None:
    layer, inputs = _problem(options, size)
    assert gradcheck(_call(layer), inputs, fast_mode=True)


@pytest.mark.parametrize(("options", "size"), [case[1:] for case in CASES], ids=[f"T16-{case[0]}" for case in CASES])
def test_second_gradients_of_input_and_parameters(options: dict[str, Any], size: tuple[int, int]) -> None:
    layer, inputs = _problem(options, size)
    assert gradgradcheck(_call(layer), inputs, fast_mode=True)


@pytest.mark.parametrize("stride", [1, 2], ids=lambda stride: f"T16-s{stride}")
def test_every_entry_of_the_inputs_gradients(stride: int) -> None:
    layer, x = scrambled(2, 2, 3, 1, stride=stride), randn(1, 2, 3, 3).requires_grad_()
    assert gradcheck(layer, x)
    assert gradgradcheck(layer, x)


def test_T16_a_gradient_penalty_trains() -> None:
    layer, x = scrambled(4, 4, num_heads=2), randn(2, 4, 6, 5).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert all(parameter.grad is not None for parameter in (layer.query.weight, layer.value.weight, layer.alpha))


@pytest.mark.parametrize("wanted", ["x", "query.weight", "position.weight", "alpha", "shift.weight", "fc.weight"])
def test_each_gradient_alone(wanted: str) -> None:
    layer, x = scrambled(4, 4, num_heads=2), randn(2, 4, 6, 5)
    leaves = {"x": x, **dict(layer.named_parameters())}
    for leaf in leaves.values():
        leaf.requires_grad_()
    (together,) = torch.autograd.grad(layer(x).square().sum(), leaves[wanted])
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    (alone,) = torch.autograd.grad(layer(x).square().sum(), leaves[wanted])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
