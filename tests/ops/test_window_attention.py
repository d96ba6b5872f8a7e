"""Attention within windows as torch knows it: schema, fakes, gradients, vmap, torch.func; and its door."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.window_attention import window_attention

OPS = torch.ops.acmix

# What opcheck itself does to the inputs.
OWN_CHECKS = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(size: tuple[int, int] = (5, 4), outside: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two heads of width 3 and windows of 2 by 3."""
    beyond = randn(3, 6, seed=2).requires_grad_() if outside else None
    return randn(2, *size, 3, 6).requires_grad_(), randn(2, 6, 6, seed=1).requires_grad_(), beyond


@OWN_CHECKS
@pytest.mark.parametrize("shift", [(0, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("outside", [True, False])
def test_torchs_own_checks(shift: tuple[int, int], outside: bool) -> None:
    torch.library.opcheck(OPS.window_attention.default, (*inputs(outside=outside), 2, 3, *shift))


@OWN_CHECKS
def test_torchs_own_checks_of_the_backward_op() -> None:
    tensors = [None if x is None else x.detach() for x in inputs()]
    grad = randn(2, 5, 4, 6, seed=5).requires_grad_()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(OPS.window_attention_backward.default, (grad, *tensors, 2, 3, 1, 1), test_utils=checks)


@pytest.mark.parametrize("size", [(4, 3), (5, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (0, 1)], ids=str)
def test_first_and_second_derivatives(size: tuple[int, int], shift: tuple[int, int]) -> None:
    tensors = inputs(size)

    def call(*tensors: Any) -> Tensor:
        return window_attention(*tensors, window=(2, 3), shift=shift)

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def test_no_weights_are_kept_for_the_gradient() -> None:
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        window_attention(*inputs(), window=(2, 3))
    assert sorted(tuple(x.shape) for x in kept) == [(2, 5, 4, 3, 6), (2, 6, 6), (3, 6)]


def test_vmap_and_torch_func() -> None:
    qkv, bias, outside = (x.detach() for x in inputs() if x is not None)
    many = torch.stack([qkv, 2 * qkv])

    def call(qkv: Tensor) -> Tensor:
        return window_attention(qkv, bias, outside, window=(2, 3), shift=(1, 1))

    expected = torch.stack([call(one) for one in many])
    torch.testing.assert_close(torch.vmap(call)(many), expected)
    _, pull = torch.func.vjp(call, qkv)
    leaf = qkv.clone().requires_grad_()
    call(leaf).sum().backward()
    torch.testing.assert_close(pull(torch.ones(2, 5, 4, 6, dtype=torch.float64))[0], leaf.grad)


def test_dropout_of_all_weights_leaves_nothing() -> None:
    assert not window_attention(*inputs(), window=(2, 3), dropout=1.0).any()


def test_one_window_without_bias_is_plain_attention() -> None:
    qkv, _, _ = inputs((2, 3))
    q, k, v = qkv.flatten(1, 2).unflatten(3, (3, 2)).permute(3, 0, 4, 1, 2)
    expected = F.scaled_dot_product_attention(q, k, v).permute(0, 2, 1, 3).reshape(2, 2, 3, 6)
    torch.testing.assert_close(
        window_attention(qkv, torch.zeros(2, 6, 6, dtype=torch.float64), window=(2, 3)), expected
    )


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"qkv": randn(2, 5, 4, 18)}, ValueError, r"qkv has shape \(2, 5, 4, 18\)"),
        ({"bias": randn(2, 4, 4)}, ValueError, r"bias \(2, 4, 4\), expected .*\[N, 6, 6\]"),
        ({"outside": randn(6, 3)}, ValueError, r"outside has shape \(6, 3\), expected \(3, 6\)"),
        ({"bias": randn(2, 6, 6).float()}, TypeError, "float32"),
    ],
    ids=["qkv", "bias", "outside", "dtype"],
)
def test_wrong_inputs_are_named(change: dict[str, Tensor], error: type[Exception], told: str) -> None:
    tensors = dict(zip(("qkv", "bias", "outside"), inputs(), strict=True))
    with pytest.raises(error, match=f"window_attention: .*{told}"):
        window_attention(**(tensors | change), window=(2, 3))
