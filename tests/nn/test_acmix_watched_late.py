"""A layer whose forward pass nobody watched, and whose backward pass somebody does."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.functional import hessian, jacobian
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from acmix import ACmix
from fast_backends import native
from layer_comparison import randn, scrambled, twin

pytestmark = native


@pytest.fixture
def layer() -> ACmix:
    return scrambled(8, 8, 3, 2, dtype=torch.float32)


@pytest.fixture
def x() -> Tensor:
    return randn(1, 8, 3, 4, dtype=torch.float32).requires_grad_()


def gradient(layer: ACmix, x: Tensor) -> Tensor:
    return torch.autograd.grad(layer(x).sin().sum(), x)[0]


def test_a_batch_of_gradients_at_once(layer: ACmix, x: Tensor) -> None:
    grads = randn(5, 1, 8, 3, 4, dtype=torch.float32)
    (found,) = torch.autograd.grad(layer(x), x, grads, is_grads_batched=True)
    for one, grad in zip(found, grads, strict=True):
        torch.testing.assert_close(one, torch.autograd.grad(layer(x), x, grad)[0])


@pytest.mark.parametrize("derivative", [jacobian, hessian])
def test_vectorised_derivatives(derivative: Callable[..., Tensor], layer: ACmix, x: Tensor) -> None:
    def scalar(of: Tensor) -> Tensor:
        return layer(of).square().sum()

    def mapped(of: Tensor) -> Tensor:
        return layer(of)

    function = scalar if derivative is hessian else mapped
    torch.testing.assert_close(derivative(function, x, vectorize=True), derivative(function, x), rtol=1e-4, atol=1e-4)


def test_the_backward_pass_alone_is_counted(layer: ACmix, x: Tensor) -> None:
    def flops(watched_forward: bool) -> int:
        with FlopCounterMode(display=False) as forward:
            out = layer(x) if watched_forward else None
        out = layer(x) if out is None else out
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        assert forward.get_total_flops() > 0 or not watched_forward
        return int(backward.get_total_flops())

    assert flops(watched_forward=False) == flops(watched_forward=True) > 10_000


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own way of making a fake one
def test_a_fake_backward_pass_leaves_nothing_behind(layer: ACmix, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradient(layer, x)
    out = layer(x).sum()
    scratch = sys.modules["acmix.ops.impl.cpu.scratch"]
    monkeypatch.setattr(scratch, "_kept", scratch._Kept())
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.autograd.grad(out, x)
    assert torch.equal(gradient(layer, x), expected)
    torch.testing.assert_close(expected, gradient(twin(layer), x), rtol=1e-4, atol=1e-4)


def test_a_gradient_of_zeros_that_takes_no_memory(layer: ACmix, x: Tensor) -> None:
    (found,) = torch.autograd.grad(layer(x), x, torch._efficientzerotensor(1, 8, 3, 4))
    assert found.shape == x.shape
    assert not found.any()


def test_a_checkpoint_that_was_watched_on_its_way_forth_alone(layer: ACmix, x: Tensor) -> None:
    with FlopCounterMode(display=False):
        out = checkpoint(layer, x, use_reentrant=False)
    (found,) = torch.autograd.grad(out.sin().sum(), x)
    torch.testing.assert_close(found, gradient(layer, x))
