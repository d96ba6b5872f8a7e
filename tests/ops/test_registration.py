"""The ops as torch knows them: gradients, vmap, torch.func, forward mode, FLOP formulas."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from acmix.functional import convolution_path, local_attention


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Torch loads its forward-mode rules through what it deprecates.
FORWARD_MODE = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:FutureWarning")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return local_attention(q, k, v, 3, stride=2)


def convolve(pieces: Tensor, fc: Tensor, shift: Tensor) -> Tensor:
    return convolution_path(pieces, fc, shift, dilation=2)


FUNCTIONS = pytest.mark.parametrize(
    ("function", "inputs"),
    [
        (attend, tuple(randn(2, 2, 3, 5, 4, seed=seed) for seed in range(3))),
        (convolve, (randn(2, 3, 6, 5, 4), randn(9, 6, seed=1), randn(6, 9, 3, 3, seed=2))),
    ],
    ids=["local_attention", "convolution_path"],
)


@FUNCTIONS
def test_vmap_over_stacked_inputs(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    others = tuple(x.flip(0) for x in inputs)
    stacked = tuple(torch.stack(pair) for pair in zip(inputs, others, strict=True))
    expected = torch.stack([function(*inputs), function(*others)])
    torch.testing.assert_close(torch.vmap(function)(*stacked), expected, rtol=1e-12, atol=1e-12)


@FUNCTIONS
def test_vmap_over_weights_or_queries_alone(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    first, *rest = inputs
    for place in range(3):
        dims = tuple(0 if index == place else None for index in range(3))
        varied = [torch.stack([x, 2 * x]) if index == place else x for index, x in enumerate(inputs)]
        doubled = [2 * x if index == place else x for index, x in enumerate(inputs)]
        expected = torch.stack([function(first, *rest), function(*doubled)])
        torch.testing.assert_close(torch.vmap(function, dims)(*varied), expected, rtol=1e-12, atol=1e-12)


@FUNCTIONS
def test_func_gradients_are_autograds(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    ours = torch.func.grad(lambda *x: function(*x).square().sum(), argnums=(0, 1, 2))(*inputs)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@FORWARD_MODE
@FUNCTIONS
def test_jacobians_both_ways(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    def of_first(first: Tensor) -> Tensor:
        return function(first, *inputs[1:])[0, 0]

    expected = torch.autograd.functional.jacobian(of_first, inputs[0])
    torch.testing.assert_close(torch.func.jacrev(of_first)(inputs[0]), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.func.jacfwd(of_first)(inputs[0]), expected, rtol=1e-12, atol=1e-12)


@FUNCTIONS
def test_checkpointed_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    ours = torch.autograd.grad(checkpoint(function, *leaves, use_reentrant=False).square().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@FUNCTIONS
def test_each_gradient_alone(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    for place, grad in enumerate(expected):
        alone = [x.clone().requires_grad_(index == place) for index, x in enumerate(inputs)]
        (ours,) = torch.autograd.grad(function(*alone).square().sum(), alone[place])
        torch.testing.assert_close(ours, grad, rtol=1e-12, atol=1e-12)


def test_multiply_adds_are_those_of_the_papers_form() -> None:
    batch, heads, width, height, columns = 2, 4, 8, 9, 7
    pixels = batch * height * columns
    x = torch.empty(3, batch, heads, width, height, columns, device="meta")
    with FlopCounterMode(display=False) as counter:
        local_attention(*x.unbind(0), 7)
    assert counter.get_total_flops() == 2 * pixels * 2 * 49 * heads * width
    pieces = torch.empty(batch, width, 3 * heads, height, columns, device="meta")
    fc, shift = torch.empty(9, 3 * heads, device="meta"), torch.empty(heads * width, 9, 3, 3, device="meta")
    for form in ("composed", "two_step"):
        with FlopCounterMode(display=False) as counter:
            convolution_path(pieces, fc, shift, form=form)
        assert counter.get_total_flops() == 2 * pixels * (27 * heads + 81 * heads) * width
