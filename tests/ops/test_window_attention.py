"""Attention within windows as torch knows it: schema, fakes, gradients, vmap, torch.func; and its door."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from acmix.ops.window_attention import window_attention

# Torch loads its forward-mode rules through what it deprecates.
FORWARD_MODE = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:FutureWarning")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(size: tuple[int, int] = (5, 4), outside: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    """Two heads of width 3 and windows of 2 by 3."""
    beyond = randn(3, 6, seed=2).requires_grad_() if outside else None
    return randn(2, *size, 3, 6).requires_grad_(), randn(2, 6, 6, seed=1).requires_grad_(), beyond


@pytest.mark.parametrize("size", [(4, 3), (5, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (0, 1)], ids=str)
def test_first_and_second_derivatives(size: tuple[int, int], shift: tuple[int, int]) -> None:
    tensors = inputs(size)

    def call(*tensors: Any) -> Tensor:
        return window_attention(*tensors, window=(2, 3), shift=shift)

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


@pytest.mark.parametrize("size", [(4, 6), (5, 4), (1, 1), (7, 2)], ids=str)
@pytest.mark.parametrize("shift", [(0, 0), (1, 2), (0, 1)], ids=str)
@pytest.mark.parametrize("outside", [True, False])
def test_torch_is_the_reference(size: tuple[int, int], shift: tuple[int, int], outside: bool) -> None:
    tensors = inputs(size, outside)
    leaves = [x for x in tensors if x is not None]
    results = {}
    for impl in ("torch", "reference"):
        out = window_attention(*tensors, window=(2, 3), shift=shift, impl=impl)
        # Padding is read by the queries and keys of padded windows alone.
        grads = torch.autograd.grad(out.sin().sum(), leaves, allow_unused=True, materialize_grads=True)
        results[impl] = (out, *grads)
    torch.testing.assert_close(results["torch"], results["reference"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_no_worse_than_the_reference_s(dtype: torch.dtype) -> None:
    tensors = [x.detach().to(dtype) for x in inputs((9, 8)) if x is not None]
    truth = window_attention(*(x.double() for x in tensors), window=(2, 3), shift=(1, 1), impl="reference")
    errors = {}
    for impl in ("torch", "reference"):
        out = window_attention(*tensors, window=(2, 3), shift=(1, 1), impl=impl)
        assert out.dtype == dtype
        errors[impl] = (out.double() - truth).abs().max()
    # The rounding of the output comes on top.
    assert errors["torch"] <= errors["reference"] + torch.finfo(dtype).eps * truth.abs().max()


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_dropout_draws_for_every_weight(impl: str) -> None:
    qkv, bias, outside = inputs((2, 3))
    ones = torch.cat([qkv[..., :4], torch.ones_like(qkv[..., 4:])], 4)
    torch.manual_seed(0)
    draws = [window_attention(ones, bias, outside, window=(2, 3), dropout=0.5, impl=impl) for _ in range(200)]
    assert torch.stack(draws).detach().mean() == pytest.approx(1, abs=0.05)


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


@FORWARD_MODE
@pytest.mark.parametrize("shift", [(0, 0), (1, 1)], ids=str)
def test_gradients_by_torch_func_where_the_bias_learns_too(shift: tuple[int, int]) -> None:
    tensors = tuple(x.detach() for x in inputs() if x is not None)

    def loss(*tensors: Tensor) -> Tensor:
        return window_attention(*tensors, window=(2, 3), shift=shift).sin().sum()

    leaves = tuple(x.clone().requires_grad_() for x in tensors)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    ours = torch.func.grad(loss, argnums=(0, 1, 2))(*tensors)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    _, along = torch.func.jvp(loss, tensors, expected)
    torch.testing.assert_close(along, sum(grad.square().sum() for grad in expected), rtol=1e-12, atol=1e-12)


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
    ("options", "told"),
    [
        ({"window": (2, 0)}, "columns_of_window=0, expected an integer >= 1"),
        ({"shift": (2, 0)}, r"shift=\(2, 0\), expected 0 up to less than the window \(2, 3\)"),
        ({"shift": (0, -1)}, r"shift=\(0, -1\), expected 0"),
        ({"impl": "tourch"}, "impl='tourch' is no backend.*did you mean 'torch'"),
    ],
    ids=["window", "shift", "negative shift", "impl"],
)
def test_wrong_options_are_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"window_attention: {told}"):
        window_attention(*inputs(), **{"window": (2, 3), **options})


def test_a_backend_that_lacks_it_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"window_attention: impl='cpu' cannot run .*it has no window_attention"):
        window_attention(*inputs(), window=(2, 3), impl="cpu")


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
