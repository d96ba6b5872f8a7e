"""Attention of tokens to tokens: torch's operator against the specification, and its door."""

from typing import Any

import pytest
import torch
from torch import Tensor

from acmix.ops.token_attention import token_attention

# Torch loads its forward-mode rules through what it deprecates.
FORWARD_MODE = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:FutureWarning")


def inputs(keys: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Seven queries of twelve channels."""
    generator = torch.Generator().manual_seed(0)
    q, kv = (torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in ((7, 12), (keys, 24)))
    return q.to(dtype).requires_grad_(), kv.to(dtype).requires_grad_()


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("keys", [1, 5])
def test_torch_is_the_reference(heads: int, keys: int) -> None:
    tensors = inputs(keys)
    results = {}
    for impl in ("torch", "reference"):
        out = token_attention(*tensors, heads, impl=impl)
        results[impl] = (out, *torch.autograd.grad(out.sin().sum(), tensors))
    torch.testing.assert_close(results["torch"], results["reference"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_no_worse_than_the_reference_s(dtype: torch.dtype) -> None:
    tensors = inputs(33, dtype)
    truth = token_attention(*(x.double() for x in tensors), 3, impl="reference")
    errors = {
        impl: (token_attention(*tensors, 3, impl=impl).double() - truth).abs().max() for impl in ("torch", "reference")
    }
    # The rounding of the output comes on top.
    assert errors["torch"] <= errors["reference"] + torch.finfo(dtype).eps * truth.abs().max()


def test_an_empty_batch() -> None:
    assert token_attention(torch.zeros(0, 7, 12), torch.zeros(0, 5, 24), 3).shape == (0, 7, 12)


@FORWARD_MODE
def test_forward_mode_agrees_with_backward_mode() -> None:
    tensors = tuple(x.detach() for x in inputs())

    def loss(*tensors: Tensor) -> Tensor:
        return token_attention(*tensors, 3).sin().sum()

    leaves = inputs()
    expected = torch.autograd.grad(loss(*leaves), leaves)
    _, along = torch.func.jvp(loss, tensors, expected)
    torch.testing.assert_close(along, sum(grad.square().sum() for grad in expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"q": torch.zeros(7, 12)}, ValueError, r"q \(7, 12\) and kv \(2, 5, 24\), expected \[B, L, C\]"),
        ({"kv": torch.zeros(2, 5, 12)}, ValueError, r"kv \(2, 5, 12\), expected .*\[B, S, 2 C\]"),
        ({"kv": torch.zeros(2, 0, 24)}, ValueError, "S=0.*at least one key"),
        ({"num_heads": 5}, ValueError, "C=12, S=5, num_heads=5, expected a multiple"),
        ({"num_heads": 0}, ValueError, "num_heads=0, expected an integer >= 1"),
        ({"kv": torch.zeros(2, 5, 24).half()}, TypeError, "kv is torch.float16"),
        ({"q": None}, TypeError, "q is a NoneType, expected a tensor"),
        ({"impl": "refrence"}, ValueError, "impl='refrence' is no backend.*did you mean 'reference'"),
        ({"impl": "cpu"}, RuntimeError, "impl='cpu' cannot run .*it has no token_attention"),
    ],
    ids=["rank", "channels", "no keys", "heads", "no heads", "dtype", "None", "impl", "cpu"],
)
def test_the_door_names_the_mistake(change: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=f"token_attention: .*{told}"):
        token_attention(**{"q": torch.zeros(2, 7, 12), "kv": torch.zeros(2, 5, 24), "num_heads": 3, **change})
