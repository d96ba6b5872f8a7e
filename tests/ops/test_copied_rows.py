"""Window attention of other memory than dense rows of float32, which is brought there some images at a time."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from acmix.functional import local_attention
from acmix.ops.impl.cpu.scratch import release_memory
from fast_backends import native

pytestmark = native

MODULE = sys.modules["acmix.ops.impl.cpu.attention"]


def channels_last(x: Tensor) -> Tensor:
    return x.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "channels_last": channels_last,
    "bfloat16, channels_last": lambda x: channels_last(x.bfloat16()),
    "every second column": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.parametrize("copied", [1, 2**20], ids=["image by image", "together"])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (5, 2), (7, 1), (7, 2)])
@pytest.mark.parametrize("form", FORMS)
def test_it_gives_what_dense_rows_give(
    form: str, kernel_size: int, stride: int, copied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MODULE, "_COPIED_BYTES", copied)
    torch.manual_seed(0)
    tensors = [FORMS[form](torch.randn(3, 2, 5, 9, 11)) for _ in range(3)]
    position = torch.randn(5, 9, 11).to(tensors[0].dtype)
    size = (3, 2, 5, -(-9 // stride), -(-11 // stride))
    grad = FORMS[form](torch.randn(size))

    def results(*inputs: Tensor) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = local_attention(*leaves[:3], kernel_size, stride=stride, position=leaves[3], impl="cpu")
        return [out, *torch.autograd.grad(out, leaves, grad.to(out.dtype))]

    found = results(*tensors, position)
    expected = results(*(x.float().contiguous() for x in tensors), position.float())
    for one, other in zip(found[:-1], expected[:-1], strict=True):
        assert one.dtype == tensors[0].dtype
        torch.testing.assert_close(one, other.to(one.dtype), rtol=0, atol=0)
    # The position's is a sum over images, in another order.
    unit = torch.finfo(position.dtype).eps
    torch.testing.assert_close(found[-1].float(), expected[-1], rtol=unit, atol=1e-6)


def test_scratch_memory_is_no_part_of_a_graph() -> None:
    release_memory()
    q = torch.randn(2, 1, 4, 5, 5, dtype=torch.bfloat16, requires_grad=True)
    (first,) = torch.autograd.grad(local_attention(q, q, q, 3, impl="cpu").square().sum(), q, create_graph=True)
    first.square().sum().backward()
    buffers = sys.modules["acmix.ops.impl.cpu.scratch"]._kept.buffers
    assert any("attention" in name for name in buffers)
    assert not any(buffer.requires_grad for buffer in buffers.values())


def test_an_empty_batch_comes_back_empty() -> None:
    q = torch.zeros(0, 2, 4, 5, 5, dtype=torch.bfloat16, requires_grad=True)
    out = local_attention(q, q, q, 3, impl="cpu")
    assert out.shape == q.shape
    (grad,) = torch.autograd.grad(out.sum(), q)
    assert grad.shape == q.shape


@pytest.mark.parametrize("form", ["bfloat16", "channels_last"])
def test_an_expanded_gradient_is_as_good_as_a_dense_one(form: str) -> None:
    q = FORMS[form](torch.randn(2, 2, 4, 6, 7)).requires_grad_()
    for x in (q, q.detach().float().contiguous().requires_grad_()):
        out = local_attention(x, x, x, 3, impl="cpu")
        (found,) = torch.autograd.grad(out, x, torch.ones((), dtype=x.dtype).expand(out.shape), retain_graph=True)
        (expected,) = torch.autograd.grad(out, x, torch.ones_like(out))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
